"""The trigger inversion of BTI-DBF: what a model needs for its task is kept, and a generator moves the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, mse_loss

from bdbench import BdbenchError, Victim

# The authors' settings: the rates of Adam, the weight of benign features, the bound on them, the noise when trying.
_MASK_LR, _GENERATOR_LR, _BENIGN, _FEATURE_BOUND, _NOISE = 1e-2, 1e-3, 0.01, 5.0, 0.03
_SHOWN = 8


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


def invert(
    model: Parts,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    device: str,
    *,
    mask_steps: int,
    steps: int,
    batch: int,
    bound: float,
    width: int,
) -> dict[str, np.ndarray]:
    """Where a generator sends images once it may change all but the features that the task needs.

    "hits": int64 (n,), the labels of the images as it changes them; "mask": float32 (d,), in 0..1, what the task needs;
    "clean" and "made": some of the images, uint8 (m, H, W, C), before and after. ``seed`` draws everything.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(images.shape[3], width).to(device)
    chance = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(labels.copy()).to(device)
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in x.split(1024)])
    mask = _mask(model.head, features, y, mask_steps, batch, chance)
    optimizer = torch.optim.Adam(generator.parameters(), lr=_GENERATOR_LR)
    for part in _batches(len(x), steps, batch, chance):
        made = generator(x[part])
        moved = model.features(made)
        benign = mse_loss(mask * moved, mask * features[part])
        other = mse_loss((1 - mask) * moved, (1 - mask) * features[part])
        change = mse_loss(made / model.std, x[part] / model.std)
        far = change > bound or benign > _FEATURE_BOUND
        optimizer.zero_grad()
        (change if far else _BENIGN * benign - other).backward()
        optimizer.step()
    noise = torch.randn(x.shape, generator=chance).to(device) * _NOISE
    with torch.inference_mode():
        made = torch.cat([generator(part) for part in (x + noise * model.std).split(1024)])
        hits = torch.cat([model.head(model.features(part)).argmax(1) for part in made.split(1024)])
    shown = (made[:_SHOWN] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return {"hits": hits.cpu().numpy(), "mask": mask.cpu().numpy(), "clean": images[:_SHOWN], "made": shown}


def _mask(
    head: nn.Linear, features: torch.Tensor, labels: torch.Tensor, steps: int, batch: int, chance: torch.Generator
) -> torch.Tensor:
    """The share of each feature, (d,), with which the head finds the label, and without which it does not."""
    free = torch.randn(features.shape[1], generator=chance).to(features.device).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=_MASK_LR)
    for part in _batches(len(features), steps, batch, chance):
        mask, own = (free.tanh() + 1) / 2, features[part]
        loss = cross_entropy(head(mask * own), labels[part]) - cross_entropy(head((1 - mask) * own), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (free.detach().tanh() + 1) / 2


def _batches(count: int, steps: int, batch: int, chance: torch.Generator) -> list[torch.Tensor]:
    """As many random batches of indices as there are steps, in passes over all."""
    found: list[torch.Tensor] = []
    while len(found) < steps:
        found += torch.randperm(count, generator=chance).split(batch)
    return found[:steps]
