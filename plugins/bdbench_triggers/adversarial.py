"""Adversarial images for a network that is being trained, and training on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import Batch, Split, Victim, Workshop
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


def trained_adversarially(train: Split, tools: Workshop, name: str, radius: float, steps: int) -> Victim:
    """A model of the victim's architecture and recipe, trained on adversarial images alone (Madry et al. 2018).

    In each batch, what the recipe's augmentation made of an image is moved by at most ``radius``, of 0..1, in each
    pixel, in steps of 2.5 radius / steps, to where the loss of its label is high; batch normalisation stands still
    meanwhile. name: draws its random stream.
    """

    def loss(batch: Batch) -> torch.Tensor:
        model = _OfPixels(batch).eval()
        x = ((batch.x - model.low) / model.width).clamp(0, 1)
        moved = perturb(model, x, batch.labels, "linf", radius, steps, 2.5 * radius / steps, lambda done: None)
        logits = model.train()(moved)
        return cross_entropy(logits, batch.labels, label_smoothing=tools.recipe.label_smoothing)

    return tools.train(np.asarray(train.images), train.labels, name, loss=loss, kept={"radius": radius, "steps": steps})
