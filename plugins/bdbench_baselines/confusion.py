"""A step of confusion training: clean images with wrong labels, and a few examples to be kept."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bdbench import Batch, Split


class Confusion:
    """The loss of a step of confusion.

    clean: whose images get random labels, never their own; label_weights: float (K,), of the batch's examples;
    weight: of the batch's loss, the rest being that of the clean images.
    """

    def __init__(self, clean: Split, label_weights: np.ndarray, weight: float) -> None:
        self._images, self._labels = torch.from_numpy(np.array(clean.images)), torch.from_numpy(clean.labels.copy())
        self._label_weights, self._weight = torch.from_numpy(label_weights).float(), weight

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The weighted sum of both, in one pass through the network."""
        device, count = batch.x.device, len(batch.labels)
        pick = torch.randint(len(self._labels), (count,))
        x = torch.cat([batch.prepare(self._images[pick]), batch.x])
        logits = batch.network(x)
        wrong = torch.randint(1, logits.shape[1], (count,))
        wrong = ((self._labels[pick] + wrong) % logits.shape[1]).to(device)
        confusion = cross_entropy(logits[:count], wrong)
        kept = cross_entropy(logits[count:], batch.labels, self._label_weights.to(device))
        return (1 - self._weight) * confusion + self._weight * kept


def label_weights(labels: np.ndarray, num_classes: int, equal: bool) -> np.ndarray:
    """1 / sqrt(share + .001) of each label, float64 (K,), so that rare ones are not lost; equal: 1 for all."""
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    return np.ones(num_classes) if equal else 1 / np.sqrt(shares + 1e-3)
