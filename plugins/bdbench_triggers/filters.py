"""Filters that gradients pass through: low frequencies alone, and a small blur."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct
from torch.nn.functional import pad


def lowpass(length: int, ratio: float) -> np.ndarray:
    """What keeps the lowest ``ratio`` of the cosine transform of ``length`` values, float32 (length, length)."""
    kept = dct(np.eye(length), axis=0, norm="ortho")[: max(1, int(length * ratio))]
    return (kept.T @ kept).astype(np.float32)


def blurred(x: torch.Tensor, deviation: float) -> torch.Tensor:
    """(b, C, H, W), at least 2 x 2, under a Gaussian of 3 x 3 pixels; borders are mirrored."""
    side = float(np.exp(-0.5 / deviation**2))
    beside, middle = side / (1 + 2 * side), 1 / (1 + 2 * side)
    x = pad(x, (1, 1, 1, 1), mode="reflect")
    x = middle * x[..., 1:-1, :] + beside * (x[..., :-2, :] + x[..., 2:, :])
    return middle * x[..., 1:-1] + beside * (x[..., :-2] + x[..., 2:])
