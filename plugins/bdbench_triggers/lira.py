"""LIRA: a generator of faint changes and the model that obeys them, learnt together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param
from bdbench_triggers.trained import Trained, handed_over

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench import Victim
    from bdbench_triggers.loops import Learner

_DEPTH = 2


@dataclass(frozen=True, kw_only=True)
class Lira(Trained, CraftedTrigger):
    """Dirty-label, and the attacker trains the model: T(x) = x + eps g(x), with a generator g in -1..1.

    Its two stages: in the first each batch takes a step of g, which lowers the loss of T(x) for the target, and one of
    the victim f, on alpha L(f(x), y) + (1 - alpha) L(f(T(x)), target) with the g of the epoch before; in the second, g
    stays as it is and f is tuned on the same sum. Every image is in both terms: ``rate`` is that of the snapshot alone.
    f is of the run's architecture and recipe, its label smoothing included, in both stages (the authors' command for
    CIFAR-10: VGG-11, 50 and then 250 epochs of SGD); g is a U-Net, much smaller than theirs.

    The paper bounds the change by eps; the authors' code has more than one eps, in more than one unit. It normalises
    CIFAR-10 before eps = .1 is applied, which is then in deviations of a channel (about 6 grey levels), and does not
    clip; on MNIST eps is of half the range (13 grey levels), on GTSRB of the range (25), and it clips. Later commands
    of theirs have eps = .01 in both stages (.6 grey levels of CIFAR-10, which rounding to whole ones would undo), or .1
    in the first and .01 in the second. The default is the first, in deviations. Their code steps g against f after a
    trial step of f; descends, in the first stage, f's loss of T(x) for the true labels; starts the second from an
    untrained f unless told otherwise (``tune=scratch``); and keeps the epoch that is best on test images. The objective
    asks for none of the four, and they are not done here.
    """

    name = "lira"
    paper = "Doan, Lao, Zhao and Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021"
    rate: float = param(0.1, help="poisons / all, in the snapshot", low=0, high=1, exclusive=True)
    eps: float = param(0.1, help="largest change of a pixel, in ``unit``", low=0, exclusive=True)
    tune_eps: float | None = param(None, help="in the second stage and at test time (none: eps)", low=0, exclusive=True)
    unit: Literal["deviation", "range"] = param(
        "deviation", help="of eps: the deviation of a channel over the training set, or the range, 255"
    )
    alpha: float = param(0.5, help="weight of clean images; the rest is of attacked ones", low=0, high=1)
    epochs: int | None = param(None, help="of the first stage (none: the victim's)", low=1)
    tune_epochs: int | None = param(None, help="of the second (none: the victim's)", low=1)
    tune: Literal["continue", "scratch"] = param("continue", help="where the second stage starts")
    lr: float = param(1e-4, help="learning rate of the generator", low=0, exclusive=True)
    width: int = param(16, help="channels of the generator's first level", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The generator's weights, its "bound" float32 (C,) in parts of the range, and the victim."""
        from bdbench_triggers.generators import seeded, weights
        from bdbench_triggers.loops import Learner

        generator = seeded(tools, "generator", lambda: self._network(tools.shape))
        learner = Learner(tools, train, "first stage", epochs=self.epochs)
        one = learner.victim.std if self.unit == "deviation" else np.ones_like(learner.victim.std)
        self._generate(generator, learner, one * self.eps, tools)
        start = learner.victim if self.tune == "continue" else None
        tuned = Learner(tools, train, "second stage", epochs=self.tune_epochs, start=start)
        bound = (one * (self.tune_eps or self.eps)).astype(np.float32)
        victim = self._tune(generator, tuned, bound, tools)
        return {**weights(generator, "generator"), "bound": bound, **handed_over(victim)}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """T(x)."""
        from bdbench_triggers.generators import changed, with_weights

        generator = with_weights(self._network(images.shape[1:]), state, "generator", device)
        return changed(lambda x: _moved(generator, x, state["bound"]), device, images)

    def _network(self, shape: tuple[int, ...]) -> nn.Module:
        from bdbench_triggers.generators import Generator

        return Generator(shape[-1], shape[-1], self.width, _DEPTH, skips=True)

    def _generate(self, generator: nn.Module, learner: Learner, bound: np.ndarray, tools: Workshop) -> None:
        import copy

        import torch

        optimizer = torch.optim.Adam(generator.parameters(), lr=self.lr)
        before = copy.deepcopy(generator).eval()

        def epoch(number: int, draws: torch.Generator) -> None:
            before.load_state_dict(generator.state_dict())
            generator.train()
            for x, labels in learner.batches(number, draws):
                optimizer.zero_grad(set_to_none=True)
                learner.loss(_moved(generator, x, bound), self._goal(labels, tools)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                self._step(before, learner, x, labels, bound, tools)

        parts = {"generator": generator, "generator optimizer": optimizer, **learner.parts}
        tools.loop("first stage", parts, learner.recipe.epochs, epoch)

    def _tune(self, generator: nn.Module, learner: Learner, bound: np.ndarray, tools: Workshop) -> Victim:
        generator.eval()

        def epoch(number: int, draws: torch.Generator) -> None:
            for x, labels in learner.batches(number, draws):
                self._step(generator, learner, x, labels, bound, tools)

        tools.loop("second stage", learner.parts, learner.recipe.epochs, epoch)
        return learner.victim

    def _step(
        self,
        generator: nn.Module,
        learner: Learner,
        x: torch.Tensor,
        labels: torch.Tensor,
        bound: np.ndarray,
        tools: Workshop,
    ) -> None:
        """One of the victim, of images as they are and with what a fixed generator makes of them."""
        attacked = learner.loss(_moved(generator, x, bound).detach(), self._goal(labels, tools))
        learner.descend(self.alpha * learner.loss(x, labels) + (1 - self.alpha) * attacked)

    def _goal(self, labels: torch.Tensor, tools: Workshop) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.goal(labels.cpu().numpy(), tools.num_classes)).to(labels.device)


def _moved(generator: nn.Module, x: torch.Tensor, bound: np.ndarray) -> torch.Tensor:
    change = generator(x).tanh() * x.new_tensor(bound)[:, None, None]
    return (x + change).clamp(0, 1)
