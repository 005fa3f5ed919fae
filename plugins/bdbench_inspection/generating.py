"""What trigger inversions share: a model in two parts, a generator of images, and random batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from bdbench import BdbenchError, Victim


@dataclass(frozen=True)
class Parts:
    """A model in two. mean, std: (C, 1, 1), of pixels in 0..1; its head makes logits of its features (b, d)."""

    network: nn.Module
    head: nn.Linear
    mean: torch.Tensor
    std: torch.Tensor

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Of pixels (b, C, H, W) in 0..1, (b, d)."""
        return self.network.features((x - self.mean) / self.std)  # type: ignore[operator]


def parts(victim: Victim, num_classes: int, title: str) -> Parts:
    """A victim's parts, frozen. Raises BdbenchError, naming the defense, where no linear layer makes the logits."""
    network = victim.network.eval().requires_grad_(False)
    heads = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if not heads:
        raise BdbenchError(f"defense {title!r} needs features: expected a model that ends in one linear layer")
    device = next(network.parameters()).device
    mean, std = (torch.from_numpy(values).to(device)[:, None, None] for values in (victim.mean, victim.std))
    return Parts(network, heads[-1], mean, std)


class Generator(nn.Module):
    """A small U-Net that adds to pixels in 0..1 what it makes of them; untrained, it adds little."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.into, self.down = _layer(channels, width), _layer(width, 2 * width)
        self.deep, self.up = _layer(2 * width, 2 * width), _layer(4 * width, width)
        self.out = _layer(2 * width, width)
        self.last = nn.Conv2d(width, channels, 1, bias=False)
        # Of no change at all the square has no slope.
        nn.init.normal_(self.last.weight, std=0.1 / width**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W), any size from 2 x 2."""
        whole = self.into(x - 0.5)
        half = self.down(interpolate(whole, scale_factor=0.5, mode="area"))
        quarter = self.deep(interpolate(half, size=[-(-side // 2) for side in half.shape[2:]], mode="area"))
        half = self.up(torch.cat([half, interpolate(quarter, size=half.shape[2:])], 1))
        made = self.out(torch.cat([whole, interpolate(half, size=whole.shape[2:])], 1))
        return (x + self.last(made).tanh()).clamp(0, 1)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.ReLU())


def generator(channels: int, width: int, seed: int, device: str) -> Generator:
    """One whose first weights ``seed`` draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(channels, width).to(device)


def pixels(images: np.ndarray, device: str) -> torch.Tensor:
    """Images, uint8 (n, H, W, C), as (n, C, H, W) in 0..1."""
    return torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2).float() / 255


def images_of(x: torch.Tensor) -> np.ndarray:
    """The reverse of ``pixels``."""
    made: np.ndarray = (x.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return made


def unit(free: torch.Tensor) -> torch.Tensor:
    """What moves freely as a mask in 0..1."""
    return (free.tanh() + 1) / 2


def batches(count: int, steps: int, batch: int, chance: torch.Generator) -> list[torch.Tensor]:
    """As many random batches of indices as there are steps, in passes over all."""
    found: list[torch.Tensor] = []
    while len(found) < steps:
        found += torch.randperm(count, generator=chance).split(batch)
    return found[:steps]
