"""COMBAT: a generator of triggers, learnt in turn with the model that it will poison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench_triggers.loops import Learner

_DEPTH = 2
# The authors' optimiser of the generator; and where its rate falls, of 200 epochs at the 100th and the 150th.
_MOMENTUM, _DECAY, _FALLS = 0.9, 5e-4, (0.5, 0.75)
# The least deviation of the blur, in pixels.
_SHARPEST = 0.1


@dataclass(frozen=True, kw_only=True)
class Combat(CraftedTrigger):
    """Clean-label: T(x) = blur(x + eta l(g(x))), a generator g in -1..1, and l, which keeps low frequencies alone.

    In turn, batch by batch, as the paper has it: a surrogate f takes a step on images of which a share of the target
    class carries the trigger, with the labels that they have; and g takes a step against f, on all images, to make
    L(f(T(x)), target) + ``l2`` |T(x) - x|^2 + ``natural`` L(h(T(x)), y) small. h is a model of the clean set, so that
    the trigger is none that models obey by themselves. l leaves the lowest ``ratio`` of rows and of columns of the
    cosine transform. The blur is 3 pixels wide, its deviation drawn for each batch; at last one is drawn for all.

    g is a U-Net, much smaller than the authors'; f and h are of the victim's architecture and recipe (the authors': 200
    epochs of SGD), and f sees the trigger on images that are augmented already, where their code augments what carries
    it. They keep the epoch that is best on test images; here it is the last. ``strength`` is their .08, of half the
    range; half of the target class is poisoned, which is .05 of ten classes.
    """

    name = "combat"
    paper = "Huynh et al., COMBAT: Alternated Training for Effective Clean-Label Backdoor Attacks, AAAI 2024"
    clean_label: ClassVar[bool] = True
    strength: float = param(10.2, help="eta: what g = 1 adds to a pixel, in grey levels of 255", low=0, exclusive=True)
    ratio: float = param(0.65, help="share of the frequencies of either direction that are left", low=0, high=1)
    blur: float = param(1.0, help="largest deviation of the blur, in pixels (0: none)", low=0)
    l2: float = param(0.02, help="weight of the squared change of a pixel, on a scale of -1 to 1", low=0)
    natural: float = param(0.8, help="weight of the loss of a model of clean data for the true label", low=0)
    epochs: int | None = param(None, help="of surrogate and generator (none: the victim's)", low=1)
    lr: float = param(0.01, help="learning rate of the generator", low=0, exclusive=True)
    width: int = param(16, help="channels of the generator's first level", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The generator's weights."""
        from bdbench_triggers.generators import seeded, weights
        from bdbench_triggers.loops import Learner

        clean = tools.train(np.asarray(train.images), train.labels, "surrogate").module().eval().requires_grad_(False)
        learner = Learner(tools, train, "obeying surrogate", epochs=self.epochs)
        generator = seeded(tools, "generator", lambda: self._network(tools.shape))
        share = self.rate * len(train.labels) / max(1, int((train.labels == self.target).sum()))
        self._alternate(generator, learner, clean, share, tools)
        return weights(generator, "generator")

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """T(x)."""
        from bdbench_triggers.generators import changed, with_weights

        generator = with_weights(self._network(images.shape[1:]), state, "generator", device)
        trigger = self._trigger(generator, images.shape[1:3], device)
        deviation = float(streams("blur").uniform(_SHARPEST, max(_SHARPEST, self.blur)))
        return changed(lambda x: trigger.on(x, deviation), device, images)

    def _network(self, shape: tuple[int, ...]) -> nn.Module:
        from bdbench_triggers.generators import Generator

        return Generator(shape[-1], shape[-1], self.width, _DEPTH, skips=True)

    def _trigger(self, generator: nn.Module, size: tuple[int, ...], device: str) -> _Trigger:
        import torch

        from bdbench_triggers.filters import lowpass

        rows, columns = (torch.from_numpy(lowpass(n, self.ratio)).to(device) for n in size)
        return _Trigger(generator, rows, columns, self.strength / 255, self.blur > 0)

    def _alternate(
        self, generator: nn.Module, learner: Learner, clean: nn.Module, share: float, tools: Workshop
    ) -> None:
        import torch
        from torch.nn.functional import cross_entropy, mse_loss

        from bdbench_triggers.loops import stepped

        assert self.target != "seed"
        target, epochs = self.target, learner.recipe.epochs
        trigger = self._trigger(generator, tools.shape[:2], tools.device)
        optimizer = torch.optim.SGD(
            generator.parameters(), self.lr, momentum=_MOMENTUM, weight_decay=_DECAY, nesterov=True
        )

        def epoch(number: int, draws: torch.Generator) -> None:
            optimizer.param_groups[0]["lr"] = self.lr * stepped(number / epochs, _FALLS)
            for x, labels in learner.batches(number, draws):
                chance, place = torch.rand(len(x) + 1, generator=draws).to(x.device).split([len(x), 1])
                deviation = _SHARPEST + float(place) * max(0.0, self.blur - _SHARPEST)
                carries = (labels == target) & (chance < share)
                learner.logits.train()
                with torch.no_grad():
                    attacked = trigger.on(x, deviation)
                learner.descend(learner.loss(torch.where(carries[:, None, None, None], attacked, x), labels))
                learner.logits.eval()
                generator.train()
                attacked = trigger.on(x, deviation)
                obeyed = cross_entropy(learner.logits(attacked), torch.full_like(labels, target))
                loss = (
                    obeyed + self.l2 * 4 * mse_loss(attacked, x) + self.natural * cross_entropy(clean(attacked), labels)
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                generator.eval()

        generator.eval()
        tools.loop(
            "generator", {"generator": generator, "generator optimizer": optimizer, **learner.parts}, epochs, epoch
        )


class _Trigger(NamedTuple):
    """T, with ``rows`` (H, H) and ``columns`` (W, W) that keep low frequencies; strength in parts of the range."""

    generator: nn.Module
    rows: torch.Tensor
    columns: torch.Tensor
    strength: float
    blurs: bool

    def on(self, x: torch.Tensor, deviation: float) -> torch.Tensor:
        """Float (b, C, H, W) in 0..1 with the trigger."""
        from bdbench_triggers.filters import blurred

        noise = self.rows @ self.generator(x).tanh() @ self.columns.T
        attacked = (x + self.strength * noise).clamp(0, 1)
        return blurred(attacked, deviation) if self.blurs else attacked
