"""The largest margin of a label: how far above all other logits an image can lift its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

# The search ends when the sum of margins changes by less, relatively.
_STILL = 1e-5


def largest_margin(
    model: nn.Module,
    shape: tuple[int, int, int],
    seeds: Sequence[int],
    device: str,
    label: int,
    *,
    images: int,
    steps: int,
    lr: float,
) -> dict[str, np.ndarray]:
    """The "margin" of ``label`` and the "image" that has it, float32 (H, W, C) in 0..1.

    Projected gradient ascent from ``images`` of uniform noise, each for itself; shape: (H, W, C).
    """
    generator = torch.Generator().manual_seed(seeds[label])
    height, width, channels = shape
    x = torch.rand(images, channels, height, width, generator=generator).to(device)
    before = None
    for _ in range(steps):
        x.requires_grad_(True)
        total = _margins(model, x, label).sum()
        (slope,) = torch.autograd.grad(total, x)
        x = (x.detach() + lr * slope).clamp(0, 1)
        now = float(total.detach())
        if before is not None and abs(now - before) <= _STILL * abs(before):
            break
        before = now
    with torch.no_grad():
        margins = _margins(model, x, label)
    best = int(margins.argmax())
    return {"margin": np.array(float(margins[best])), "image": x[best].permute(1, 2, 0).cpu().numpy()}


def _margins(model: nn.Module, x: torch.Tensor, label: int) -> torch.Tensor:
    """The logit of ``label`` minus the largest of the others, (b,)."""
    logits = model(x)
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.max(1).values
