"""Pruning by batch normalisation: channels to which clean images give other statistics than training did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Mitigation, Tools, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class BatchNormalizationPruning(Mitigation):
    """Prunes, in each layer, channels whose divergence is above the mean by ``u`` standard deviations (section 4.2).

    The divergence is Kullback-Leibler's between two normal laws of what the normalisation is given: that of the clean
    examples, and that of training, in which poisons took part, which the running statistics tell. As in the authors'
    code a pruned channel's scale is 0 and its shift stays, and a layer with fewer than 11 channels loses none at u = 3.
    """

    name = "bnp"
    paper = "Zheng et al., Pre-Activation Distributions Expose Backdoor Neurons, NeurIPS 2022"
    assumption = "Poisons changed the mean or the variance of what the backdoor's neurons were given in training."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    u: float = param(3.0, help="standard deviations above a layer's mean from which a channel is pruned", low=0)

    def repair(self, tools: Tools) -> Victim:
        """The pruned model. Raises BdbenchError for a model without batch normalisation."""
        from bdbench_mitigations.channels import norms, outlying, pruned
        from bdbench_mitigations.distributions import given

        moments = given(tools.victim, np.asarray(tools.clean_examples(self.clean).images), _moments)
        chosen = {}
        for name, norm in norms(tools.victim.network).items():
            mean, square = moments[name].mean(0).T
            assert norm.running_mean is not None and norm.running_var is not None
            theirs = [s.double().cpu().numpy() for s in (norm.running_mean, norm.running_var)]
            chosen[name] = outlying(divergence(mean, square - mean**2, theirs[0], theirs[1], norm.eps), self.u)
        return pruned(tools.victim, chosen, biases=False)


def divergence(m1: np.ndarray, v1: np.ndarray, m2: np.ndarray, v2: np.ndarray, least: float) -> np.ndarray:
    """Kullback-Leibler's divergence of normal laws of means m and variances v, the first from the second.

    least: what variances are taken for if they are smaller, so that channels that give nothing are alike.
    """
    v1, v2 = np.maximum(v1, least), np.maximum(v2, least)
    return np.log(v2 / v1) / 2 + (v1 + (m1 - m2) ** 2) / (2 * v2) - 1 / 2


def _moments(x: torch.Tensor) -> torch.Tensor:
    """Mean and mean square of each channel of each image, (b, C, 2)."""
    import torch

    return torch.stack([x.mean((2, 3)), x.square().mean((2, 3))], 2)
