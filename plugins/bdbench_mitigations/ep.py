"""Entropy pruning: channels of which the training set makes two heaps, one for clean images and one for poisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class EntropyPruning(RobustTraining):
    """Prunes, of the victim, channels whose entropy on its training set is below the layer's mean (section 4.1).

    A neuron's value is the largest of its map before the normalisation, standardised over the examples; its entropy is
    that of a histogram with bins of ``width``, and it is pruned if that is below the layer's mean by ``u`` standard
    deviations: most values in few bins and some far away is what poisons make. It trains nothing, but it needs the
    poisoned training set, which repairs do not get: so it is of this stage. As in the authors' code a pruned channel's
    scale is 0 and its shift stays. Their histogram leaves out values on the edge of a bin and in the last bin; here
    every value is in one.
    """

    name = "ep"
    paper = "Zheng et al., Pre-Activation Distributions Expose Backdoor Neurons, NeurIPS 2022"
    assumption = "What the backdoor's neurons are given has two heaps far apart, a small one of them made of poisons."
    u: float = param(3.0, help="standard deviations below a layer's mean from which a channel is pruned", low=0)
    width: float = param(0.01, help="of a bin, in a channel's standard deviations", low=0, exclusive=True)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The pruned victim. Raises BdbenchError for a model without batch normalisation."""
        from bdbench_mitigations.channels import outlying, pruned
        from bdbench_mitigations.distributions import given

        values = given(tools.victim, view.images, _largest)
        chosen = {name: outlying(-entropies(value, self.width), self.u) for name, value in values.items()}
        return pruned(tools.victim, chosen, biases=False)


def entropies(values: np.ndarray, width: float) -> np.ndarray:
    """The entropy in nats of each column of (n, C) once standardised, in bins of ``width``, float64 (C,).

    A column that is the same for all has the mean of the others', since it tells nothing.
    """
    deviation = values.std(0)
    alive = deviation > 1e-9 * np.abs(values).max(0, initial=1e-30)
    found = np.zeros(values.shape[1])
    for column in np.flatnonzero(alive):
        standard = (values[:, column] - values[:, column].mean()) / deviation[column]
        counts = np.unique(np.floor((standard - standard.min()) / width), return_counts=True)[1]
        shares = counts / len(values)
        found[column] = -(shares * np.log(shares)).sum()
    found[~alive] = found[alive].mean() if alive.any() else 0
    return found


def _largest(x: torch.Tensor) -> torch.Tensor:
    """(b, C, H, W) -> (b, C)."""
    return x.amax((2, 3))
