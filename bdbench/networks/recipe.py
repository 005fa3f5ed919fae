"""How a model is trained: one flat table, and what a loss of one's own sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from bdbench.errors import BdbenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Below these and above nothing is trained, and the arithmetic of libraries ends. No epochs: a network as it was made.
_SPANS = {"epochs": (0, 1e6), "batch_size": (1, 1e9), "lr": (0, 1e38)}
Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: one flat table, stated in every record.

    learning rate: a linear warm-up over ``warmup`` of the steps to ``lr``, then linear decay to 0.
    flip, crop_padding: augmentation, drawn per example and epoch; crop_padding in pixels, by reflection.
    reduced: it may be computed in bfloat16, with channels last, where the machine is faster so; that is the machine's
    (``bdbench.host.machine``) and no part of the recipe.
    Images are scaled to 0..1 and normalised by the training set's mean and deviation per channel.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    flip: bool = False
    crop_padding: int = 0
    reduced: bool = False

    def __post_init__(self) -> None:
        """Raises BdbenchError for numbers that no training could have, and for an optimizer that there is not."""
        for name, (least, most) in _SPANS.items():
            value = getattr(self, name)
            if name != "lr" and (isinstance(value, bool) or not isinstance(value, int)):
                raise BdbenchError(f"{name}={value!s:.20} is not allowed in a recipe: expected an integer")
            if not least <= value <= most:
                expected = f"at least {least}" if value < least else f"at most {most:g}"
                raise BdbenchError(f"{name}={value!s:.20} is not allowed in a recipe: expected {expected}")
        known = get_args(Optimizer)
        if self.optimizer not in known:
            raise BdbenchError(
                f"optimizer={self.optimizer!r} is not allowed in a recipe: expected one of {', '.join(known)}"
            )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0, of so many; above 0."""
        done = (step + 1) / (steps + 1)
        rising = done / self.warmup if self.warmup else 1.0
        falling = (1 - done) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.lr * min(rising, falling)

    def optimizer_for(self, network: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer of the network's weights."""
        from torch.optim import SGD, AdamW

        # Decay of normalisation scales and biases only fights the layers they belong to.
        decayed = [p for p in network.parameters() if p.ndim > 1]
        kept = [p for p in network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
        if self.optimizer == "sgd":
            return SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0)
        return AdamW(groups, lr=self.lr)

    def augmentation(self, count: int, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
        """Random flips and crops of ``count`` images (b, H, W, C) of any type, the same whenever they are called.

        Drawn for each image from ``generator``, of the CPU, so that they are the same on every device. Gradients pass.
        """
        import torch

        flip = torch.rand(count, generator=generator) < 0.5 if self.flip else None
        pad = self.crop_padding
        shift = [torch.randint(-pad, pad + 1, (count, 1), generator=generator) for _ in "yx"] if pad else None

        def move(x: torch.Tensor) -> torch.Tensor:
            if flip is not None:
                x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(2), x)
            if shift is not None:
                dy, dx = (s.to(x.device) for s in shift)
                rows = _reflect(torch.arange(x.shape[1], device=x.device) + dy, x.shape[1])
                columns = _reflect(torch.arange(x.shape[2], device=x.device) + dx, x.shape[2])
                x = x[torch.arange(count, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
            return x

        return move


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.abs()
    return index.where(index < size, 2 * (size - 1) - index)


@dataclass(frozen=True)
class Batch:
    """One step of training, as a loss sees it.

    network: in training mode; x: float (b, C, H, W), augmented and normalised; labels: int64 (b,); index: int64 (b,),
    which of the training examples these are; epoch: from 0; prepare: makes of other images for these examples, uint8
    (b, H, W, C), what x was made of their own: moved alike, and normalised.
    """

    network: nn.Module
    x: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    epoch: int
    prepare: Callable[[torch.Tensor], torch.Tensor]


Loss = Callable[[Batch], "torch.Tensor"]
"""What a step descends: a scalar."""
