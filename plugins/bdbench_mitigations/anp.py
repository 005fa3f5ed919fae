"""Adversarial neuron pruning: channels that make a model err when they are disturbed are pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Mitigation, Split, Tools, param
from bdbench_mitigations.clean_part import batches, halves

if TYPE_CHECKING:
    import torch

    from bdbench import Victim
    from bdbench_mitigations.masks import Factors, Masked


@dataclass(frozen=True, kw_only=True)
class AdversarialNeuronPruning(Mitigation):
    """Learns a mask in 0..1 of each channel under the worst disturbance of all channels, and prunes where it is small.

    A step draws a disturbance of the scales' masks and of the shifts' factors 1, of at most ``budget`` each, moves it
    by the sign of the gradient so that the loss on clean examples rises, and descends alpha l + (1 - alpha) l' with
    regard to the masks, l being the loss without and l' with it (algorithm 1). Scales of batch normalisations are
    masked or, where there are none, the kernels of convolutions; pruned channels keep their shift. How many go is said
    by the paper's fixed threshold or, with ``tolerance``, by the accuracy on held-out clean examples; peers take the
    threshold of the lowest ASR on the test set. ``project`` keeps disturbances within the budget, as the paper says;
    in the authors' code a step of the whole budget follows a start anywhere in it. Departs in that clean examples are
    not augmented.
    """

    name = "anp"
    paper = "Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021"
    assumption = "A few neurons carry the backdoor, and give clean images to the target once they are disturbed."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    steps: int = param(2000, help="steps of SGD on the masks", low=1)
    lr: float = param(0.2, help="its learning rate", low=0, exclusive=True)
    batch: int = param(128, help="clean examples per step", low=2)
    budget: float = param(0.4, help="the largest relative disturbance of a scale or shift", low=0)
    ascents: int = param(1, help="steps of the disturbance", low=1)
    alpha: float = param(0.2, help="weight of the undisturbed loss", low=0, high=1)
    project: bool = param(True, help="whether disturbances are kept within the budget")
    threshold: float = param(0.2, help="channels are pruned up to this value of their mask", low=0, high=1)
    tolerance: float | None = param(None, help="in its place: how far held-out accuracy may fall", low=0, high=1)
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

        masked = Masked(tools.victim)
        generator = torch.Generator().manual_seed(tools.shared_streams.integer("anp"))

        def loss(masks: Factors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            moved = disturbance(masked, masks, x, y, self.budget, self.ascents, self.project, generator)
            worst = masked.loss(added(masks, moved), x, y)
            return self.alpha * masked.loss(masks, x, y) + (1 - self.alpha) * worst

        drawn = batches(clean, self.batch, self.steps, generator, tools.device)
        return learnt(masked, drawn, loss, self.lr, tools.track(self.steps, "learn masks"))


def disturbance(
    masked: Masked,
    masks: Factors,
    x: torch.Tensor,
    y: torch.Tensor,
    budget: float,
    ascents: int,
    project: bool,
    generator: torch.Generator,
) -> Factors:
    """What added to masks, and to 1 for shifts, makes the loss of a batch rise; by parameter, (channels,).

    It starts anywhere within ``budget`` and takes ``ascents`` steps that add up to it.
    """
    import torch

    moved = masked.factors(lambda shape: budget * (2 * torch.rand(shape, generator=generator) - 1), biases=True)
    fixed = {name: mask.detach() for name, mask in masks.items()}
    for _ in range(ascents):
        gradients = torch.autograd.grad(masked.loss(added(fixed, moved), x, y), list(moved.values()))
        with torch.no_grad():
            for one, gradient in zip(moved.values(), gradients, strict=True):
                one += budget / ascents * gradient.sign()
                if project:
                    one.clamp_(-budget, budget)
    return {name: one.detach() for name, one in moved.items()}


def added(masks: Factors, moved: Factors) -> Factors:
    """The factors of parameters: masks, or 1 where there is none, plus a disturbance."""
    return {name: masks.get(name, 1) + one for name, one in moved.items()}
