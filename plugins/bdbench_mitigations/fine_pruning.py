"""Fine-pruning: what clean examples leave dormant is pruned, and the rest is trained on."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, Loss, Mitigation, Recipe, Split, Tools, param
from bdbench_mitigations.clean_part import furthest, halves, tuned, tuning

if TYPE_CHECKING:
    import torch

    from bdbench import Victim
    from bdbench_mitigations.channels import Layer

# Channels pruned at once: one, or so many that there are 100 steps.
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class FinePruning(Mitigation):
    """Prunes channels of the last convolution by their mean activation on clean examples, then fine-tunes (section 3).

    The least active go first, until the accuracy on clean examples that are held out has fallen by more than
    ``tolerance``; what the last step before left is trained on all clean examples, with the pruned channels at 0. The
    paper leaves the fall to the defender, and measures it on the same examples; many peers measure it on the test set.
    The activation is what is positive of the last convolution's output, normalised where the network does so. Of a
    residual network that is the last branch, while the skip around it stays; some peers prune the penultimate features
    in its place. ``epochs`` and ``lr`` are those of this package's fine-tuning.
    """

    name = "fine-pruning"
    paper = "Liu, Dolan-Gavitt and Garg, Fine-Pruning: Defending Against Backdooring Attacks on DNNs, RAID 2018"
    assumption = "The backdoor is in channels of the last convolution that clean images do not activate."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    tolerance: float = param(0.04, help="how far the accuracy on held-out clean examples may fall", low=0, high=1)
    held: float = param(0.3, help="the share of the clean examples that is held out", low=0, high=1, exclusive=True)
    epochs: int = param(100, help="passes over the clean examples in fine-tuning", low=1)
    lr: float = param(1.0, help="its peak learning rate / the recipe's", low=0, exclusive=True)

    def repair(self, tools: Tools) -> Victim:
        """The pruned and trained model. Raises BdbenchError for a model without convolutions."""
        from bdbench_mitigations.channels import layers, pruned

        clean = tools.clean_examples(self.clean)
        fitted, held = halves(clean, self.held)
        victim = tools.victim
        last = layers(victim, tools.shape)[-1]
        active = activations(victim, last, fitted)
        order = np.lexsort((tools.streams("ties").permutation(len(active)), active))
        step = math.ceil(len(order) / _STEPS)
        counts = range(step, len(order), step)
        steps = [functools.partial(pruned, victim, {last.name: among(order, n)}, biases=True) for n in counts]
        advance = tools.track(len(steps), "prune")
        start = furthest(steps, victim, held, self.tolerance)
        advance(len(steps))
        recipe = tuning(tools.recipe, self.epochs, self.lr)
        return tuned(tools, clean, "fine-pruning", start, recipe, frozen(start, last.name, recipe))


def among(order: np.ndarray, count: int) -> np.ndarray:
    """bool (n,): the first ``count`` of an order of n."""
    chosen = np.zeros(len(order), bool)
    chosen[order[:count]] = True
    return chosen


def activations(victim: Victim, layer: Layer, clean: Split) -> np.ndarray:
    """The mean of what is positive of each channel of a layer, float64 (channels,)."""
    from bdbench_mitigations.channels import watched

    sums: list[np.ndarray] = []

    def saw(name: str, module: object, given: torch.Tensor, output: torch.Tensor) -> None:
        if name == layer.name:
            sums.append(output.relu().double().mean((2, 3)).sum(0).cpu().numpy())

    with watched(victim.network, type(victim.network.get_submodule(layer.name)), saw):
        victim.logits(np.asarray(clean.images))
    return np.asarray(np.sum(sums, axis=0) / len(clean.labels))


def frozen(victim: Victim, name: str, recipe: Recipe) -> Loss:
    """The recipe's cross-entropy of a network in which the channels of a module that are 0 in ``victim`` stay 0."""
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    own = dict(victim.network.get_submodule(name).named_parameters())
    weight = own["weight"].detach()
    stays = (weight.flatten(1).abs().sum(1) if weight.ndim > 1 else weight.abs()) > 0

    def loss(batch: Batch) -> torch.Tensor:
        parameters = dict(batch.network.get_submodule(name).named_parameters())
        kept = {f"{name}.{n}": p * stays.view(-1, *[1] * (p.ndim - 1)) for n, p in parameters.items()}
        logits = functional_call(batch.network, kept, (batch.x,))
        return cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)

    return loss
