"""Reconstructive neuron pruning: a model unlearns clean examples, and what cannot help to recover them is pruned."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Mitigation, Split, Tools, param
from bdbench_mitigations.clean_part import batches, halves

if TYPE_CHECKING:
    import torch

    from bdbench import Victim
    from bdbench_mitigations.masks import Factors


# The authors' largest norm of a gradient in unlearning.
_LARGEST = 20.0


@dataclass(frozen=True, kw_only=True)
class ReconstructiveNeuronPruning(Mitigation):
    """Ascends the loss on clean examples with all weights, then descends it with masks alone, and prunes by the masks.

    Unlearning is by SGD until the accuracy on the clean examples is at most ``floor``; recovering learns a mask in 0..1
    of each channel of the unlearnt model on ``alpha`` times the loss; of the victim go the channels of small masks.
    Rates, alpha and floor are those of the authors' code. It stops unlearning after 84 steps (21 passes over 500
    examples) whether the floor is reached or not, which few steps of a model that is sure of its clean examples do not;
    here it goes on for up to ``steps``, without its decay of the rate, since the floor is what the method asks for.
    Gradients are clipped after they are computed, not before, when that code has none. How small is read off a sweep by
    accuracy and ASR on the test set there, and by a fall of .1 of that accuracy in peers; here by as large a fall on
    clean examples held out or, without ``tolerance``, it is a fixed ``threshold``, at which the authors' published log
    is best. Clean examples are not augmented. Where already the masks of 0 cost too much, nothing is pruned.
    """

    name = "rnp"
    paper = "Li et al., Reconstructive Neuron Pruning for Backdoor Defense, ICML 2023"
    assumption = "The backdoor is in neurons of its own, which unlearning clean examples leaves as they are."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    batch: int = param(128, help="clean examples per step", low=2)
    unlearning: float = param(0.01, help="learning rate of unlearning", low=0, exclusive=True)
    floor: float = param(0.2, help="the accuracy on clean examples at which unlearning ends", low=0, high=1)
    steps: int = param(1000, help="steps after which it ends in any case", low=1)
    recovering: float = param(0.2, help="learning rate of the masks", low=0, exclusive=True)
    recoveries: int = param(80, help="steps of SGD on the masks", low=1)
    alpha: float = param(0.2, help="what the loss is multiplied by there", low=0, exclusive=True)
    threshold: float = param(0.3, help="without tolerance: the largest mask of pruned channels", low=0, high=1)
    tolerance: float | None = param(0.1, help="how far held-out accuracy may fall (none: threshold)", low=0, high=1)
    held: float = param(0.3, help="share of clean examples held out for that", low=0, high=1, exclusive=True)

    def repair(self, tools: Tools) -> Victim:
        """The pruned model. Raises BdbenchError for a model without convolutions."""
        from bdbench_mitigations.masks import pruned_by

        clean = tools.clean_examples(self.clean)
        fitted, held = (clean, clean) if self.tolerance is None else halves(clean, self.held)
        config = {"masks": self.config(), "fitted": len(fitted.labels)}
        masks = tools.saved(config, lambda: self._masks(fitted, tools))
        return pruned_by(tools.victim, masks, self.threshold, held, self.tolerance)

    def _masks(self, clean: Split, tools: Tools) -> dict[str, np.ndarray]:
        import torch

        from bdbench_mitigations.masks import Masked, learnt

        generator = torch.Generator().manual_seed(tools.shared_streams.integer("rnp"))
        drawn = batches(clean, self.batch, self.steps, generator, tools.device)
        unlearnt = unlearn(tools.victim, drawn, self.unlearning, self.floor, len(clean.labels))
        masked = Masked(unlearnt)

        def loss(masks: Factors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.alpha * masked.loss(masks, x, y)

        drawn = batches(clean, self.batch, self.recoveries, generator, tools.device)
        return learnt(masked, drawn, loss, self.recovering, tools.track(self.recoveries, "learn masks"))


def unlearn(
    victim: Victim, drawn: Iterable[tuple[torch.Tensor, torch.Tensor]], lr: float, floor: float, examples: int
) -> Victim:
    """The victim with its loss on batches ascended, until it gets at most ``floor`` of a pass of ``examples`` right.

    What it gets right is counted on batches before they are learnt from, and costs nothing.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from bdbench_mitigations.masks import by_batch

    other = victim.replace(copy.deepcopy(victim.network))
    model = other.module()
    by_batch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    right = seen = 0
    for x, y in drawn:
        logits = model(x)
        optimizer.zero_grad()
        (-cross_entropy(logits, y)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST)
        optimizer.step()
        right, seen = right + int((logits.argmax(1) == y).sum()), seen + len(y)
        if seen >= examples:
            if right / seen <= floor:
                break
            right = seen = 0
    other.network.eval()
    return other
