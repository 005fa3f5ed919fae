"""Adversarial unlearning by the implicit hypergradient: of one perturbation that misleads a model on all images."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench import Mitigation, Split, Tools, param
from bdbench_mitigations.clean_part import batches

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench import Victim

# The authors' weight of the perturbation's squared norm, and the step of the map of which it is the fixed point.
_NORM, _STEP = 1e-3, 0.1
_Batch = tuple["torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class ImplicitAdversarialUnlearning(Mitigation):
    """Rounds of one perturbation for all clean images that raises the loss, and of unlearning it by the hypergradient.

    The perturbation ascends the cross-entropy towards what the model says of the clean images, by SGD from 0. The
    weights descend the cross-entropy of perturbed images by Adam, along the gradient that takes in how the best
    perturbation follows the weights: (dH/d delta) (d delta/d theta) by ``fixed`` iterations of the fixed point of a
    gradient step (sections 4.1 and 4.2, algorithm 1). The model runs with its own batch statistics, as in the authors'
    code. That code adds the perturbation to 1 image in 100, while the paper's objective has it on all: ``portion``
    says on how many, at least one of a batch; the default is the code's, of which the paper's results are. Their 5,000
    clean images make 50 batches a round; here a round has ``steps`` of each kind whatever the number of images. The
    norm is kept below ``radius``, the paper's constraint, in pixels of 0..1, at the value that stands in their code;
    there the line that would keep it is commented out (``radius=none`` does as it does).
    """

    name = "i-bau"
    paper = "Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022"
    assumption = "One bounded perturbation added to any image sends it to the target, as an adversary's would."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    rounds: int = param(5, help="of perturbing and unlearning", low=1)
    steps: int = param(50, help="steps of each kind in a round", low=1)
    batch: int = param(100, help="clean examples per step", low=1)
    ascent: float = param(10.0, help="learning rate of the perturbation", low=0, exclusive=True)
    radius: float | None = param(10.0, help="largest norm of the perturbation (none: any)", low=0, exclusive=True)
    lr: float = param(1e-3, help="learning rate of Adam on the weights", low=0, exclusive=True)
    fixed: int = param(5, help="iterations of the fixed point", low=1)
    portion: float = param(0.01, help="share of a batch that is perturbed in unlearning", low=0, high=1)

    def repair(self, tools: Tools) -> Victim:
        """The model after the last round. Raises BdbenchError if there are not as many clean examples."""
        clean = tools.clean_examples(self.clean)
        made = tools.saved({"i-bau": self.config()}, lambda: self._unlearnt(clean, tools).arrays())
        return tools.restore(made)

    def _unlearnt(self, clean: Split, tools: Tools) -> Victim:
        import torch

        victim = tools.victim.replace(copy.deepcopy(tools.victim.network))
        model = victim.module().eval()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=self.lr)
        generator = torch.Generator().manual_seed(tools.shared_streams.integer("i-bau"))
        drawn = batches(clean, self.batch, 2 * self.rounds * self.steps, generator, tools.device)
        advance = tools.track(self.rounds * self.steps, "unlearn")
        for _ in range(self.rounds):
            delta = perturbation(model, itertools.islice(drawn, self.steps), self.ascent, self.radius)
            parts = list(itertools.islice(drawn, self.steps))
            for x, y in parts:
                chosen = torch.zeros(len(y), 1, 1, 1)
                chosen[torch.randperm(len(y), generator=generator)[: max(1, round(self.portion * len(y)))]] = 1
                outer = _outer(model, x, y, chosen.to(x.device))
                gradients = hypergradient(_inner(model, *parts[0]), outer, delta, weights, self.fixed, _STEP)
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                optimizer.step()
                advance(1)
        tools.count_models(1)
        return victim


def perturbation(model: nn.Module, drawn: Iterator[_Batch], lr: float, radius: float | None) -> torch.Tensor:
    """What added to every image, (1, C, H, W) in 0..1, takes it most from what the model says of it."""
    import torch
    from torch.nn.functional import cross_entropy

    delta = torch.zeros(0)
    for x, _ in drawn:
        delta = delta if delta.numel() else torch.zeros_like(x[:1], requires_grad=True)
        with torch.no_grad():
            said = model(x).argmax(1)
        value = cross_entropy(model(x + delta), said) - _NORM * delta.square().sum()
        (gradient,) = torch.autograd.grad(value, delta)
        with torch.no_grad():
            delta += lr * gradient
            if radius is not None:
                delta *= min(1.0, radius / max(float(delta.norm()), 1e-12))
    return delta.detach()


def hypergradient(
    inner: Callable[[torch.Tensor], torch.Tensor],
    outer: Callable[[torch.Tensor], torch.Tensor],
    delta: torch.Tensor,
    weights: Sequence[torch.Tensor],
    iterations: int,
    step: float,
) -> list[torch.Tensor]:
    """The gradient of ``outer`` with regard to weights, where delta is what makes ``inner`` least for them.

    delta is the fixed point of delta - step d inner / d delta; what that says of its derivative is solved by
    iterations, which converge where step times inner's curvature is in (0, 2).
    """
    import torch

    delta = delta.detach().requires_grad_()
    direct = torch.autograd.grad(outer(delta), [delta, *weights], materialize_grads=True, allow_unused=True)
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    mapped = delta - step * slope
    v = torch.zeros_like(delta)
    for _ in range(iterations):
        (moved,) = torch.autograd.grad(mapped, delta, v, retain_graph=True)
        v = moved + direct[0]
    implicit = torch.autograd.grad(mapped, list(weights), v, materialize_grads=True, allow_unused=True)
    return [d + i for d, i in zip(direct[1:], implicit, strict=True)]


def _inner(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.nn.functional import cross_entropy

    return lambda delta: _NORM * delta.square().sum() - cross_entropy(model(x + delta), y)


def _outer(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, chosen: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.nn.functional import cross_entropy

    return lambda delta: cross_entropy(model(x + chosen * delta), y)
