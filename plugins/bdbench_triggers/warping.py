"""Smooth random fields, and images warped by them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

# Pixels that are sampled at a time: some 100 MB with their grid.
_PIXELS = 2**22


def smooth_field(shape: tuple[int, int], k: int, stream: np.random.Generator) -> np.ndarray:
    """A field float32 (H, W, 2) of (x, y): k x k vectors drawn from [-1, 1], of mean size 1, between them bicubic."""
    control = stream.uniform(-1, 1, (1, 2, k, k))
    control /= np.abs(control).mean()
    smooth = interpolate(torch.from_numpy(control), size=shape, mode="bicubic", align_corners=True)
    return smooth[0].permute(1, 2, 0).numpy().astype(np.float32)


def warped(
    images: np.ndarray,
    field: np.ndarray,
    rescale: float = 1.0,
    jitter: float = 0.0,
    stream: np.random.Generator | None = None,
) -> np.ndarray:
    """uint8 (n, H, W, C): each pixel is taken, bilinearly, from where the field points, and rounded.

    The image spans -1..1 in both directions; a field of 1 is 1/H of that unit down, 1/W to the right: about half a
    pixel. rescale: the places are multiplied by it; all stay inside the image. jitter: before, each image's places are
    moved by its own noise, uniform in -jitter..jitter in the field's unit, from ``stream``.
    """
    n, height, width, _ = images.shape
    size = np.array([width, height], np.float32)
    at = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1).astype(np.float32)
    places = (at + field / size) * np.float32(rescale)
    out = np.empty_like(images)
    step = max(1, _PIXELS // images[0].size) if n else 1
    for start in range(0, n, step):
        part = images[start : start + step]
        grid = np.broadcast_to(places.clip(-1, 1), (len(part), *places.shape))
        if stream is not None:
            noise = stream.random((len(part), *places.shape), np.float32) * 2 - 1
            grid = (grid + jitter * noise / size).clip(-1, 1)
        pixels = torch.from_numpy(part).permute(0, 3, 1, 2).float()
        sampled = grid_sample(pixels, torch.from_numpy(np.array(grid, np.float32)), align_corners=True)
        out[start : start + step] = sampled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return out
