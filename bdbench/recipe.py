"""How a model is trained: one flat table, and what a loss of one's own sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: one flat table, stated in every record.

    learning rate: a linear warm-up over ``warmup`` of the steps to ``lr``, then linear decay to 0.
    flip, crop_padding: augmentation, drawn per example and epoch; crop_padding in pixels, by reflection.
    reduced: it may be computed in bfloat16, with channels last, where the machine is faster so; that is the machine's
    (``bdbench.machine``) and no part of the recipe.
    Images are scaled to 0..1 and normalised by the training set's mean and deviation per channel.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    flip: bool = False
    crop_padding: int = 0
    reduced: bool = False


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
