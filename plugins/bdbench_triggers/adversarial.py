"""Adversarial images for a network that is being trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bdbench import Batch
from bdbench_triggers.pgd import perturb


class _OfPixels(nn.Module):
    """The batch's network, of pixels in 0..1."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.network = batch.network
        # Normalisation is linear, and the same for every pixel of a channel.
        shape = batch.x.permute(0, 2, 3, 1).shape
        self.low, high = (batch.prepare(torch.full(shape, v, dtype=torch.uint8))[:1] for v in (0, 255))
        self.width = high - self.low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(self.low + self.width * x)


def away_from_labels(batch: Batch, images: np.ndarray, labels: np.ndarray, radius: float, steps: int) -> np.ndarray:
    """uint8 (m, H, W, C) at most ``radius``, of 0..1, from the images in each pixel, on which the loss is high.

    Steps are 2.5 radius / steps long; batch normalisation stands still meanwhile. labels: int64 (m,).
    """
    x = torch.from_numpy(images).to(batch.x.device).permute(0, 3, 1, 2).float() / 255
    model, wanted = _OfPixels(batch).eval(), torch.from_numpy(labels).to(x.device)
    moved = perturb(model, x, wanted, "linf", radius, steps, 2.5 * radius / steps, lambda done: None)
    batch.network.train()
    return (moved * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
