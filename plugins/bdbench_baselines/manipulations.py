"""What the frequency detector takes for triggers: random blocks, noise, shadows and other images laid over an image."""

from __future__ import annotations

import numpy as np

# The authors' numbers, for sides of 32 pixels: blocks of 2 to 7, at most 5 from a corner.
_SIDE, _SMALLEST, _LARGEST, _MARGIN = 32, 2, 7, 5
# A blend adds so much of another image; noise has this mean and these variances, of 0..255; a shadow leaves so much.
_BLEND, _NOISE, _VARIANCES, _SHADOW = 0.3, 25.0, (10.0, 70.0), 0.5


def manipulated(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of images, uint8 (n, H, W, C), each changed in one of five ways, which are as likely."""
    changed = images.astype(np.float64)
    others = images[rng.integers(len(images), size=len(images))]
    for image, other, way in zip(changed, others, rng.integers(5, size=len(images)), strict=True):
        if way < 2:
            _block(image, rng, white=way == 0)
        elif way == 2:
            image += rng.normal(_NOISE, np.sqrt(rng.uniform(*_VARIANCES)), image.shape)
        elif way == 3:
            image[_lower_triangle(image.shape, rng)] *= _SHADOW
        else:
            image += _BLEND * other
    return np.clip(changed, 0, 255).astype(np.uint8)


def _block(image: np.ndarray, rng: np.random.Generator, white: bool) -> None:
    """A white block, or one of noise, near one of the corners of an image (H, W, C)."""
    margin = rng.integers(_MARGIN + 1)
    spans = []
    for side, at_end in zip(image.shape, rng.integers(2, size=2), strict=False):
        length = min(side, max(1, round(rng.integers(_SMALLEST, _LARGEST + 1) * side / _SIDE)))
        start = min(round(margin * side / _SIDE), side - length)
        spans.append(slice(side - start - length, side - start) if at_end else slice(start, start + length))
    block = image[tuple(spans)]
    block[:] = 255 if white else rng.uniform(0, 255, block.shape)


def _lower_triangle(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Which pixels, bool (H, W), lie in a triangle of random corners in the lower half."""
    height, width = shape[:2]
    corners = rng.uniform([height / 2 - 0.5, -0.5], [height - 0.5, width - 0.5], (3, 2))
    y, x = np.mgrid[:height, :width]
    sides = [
        (b[0] - a[0]) * (x - a[1]) - (b[1] - a[1]) * (y - a[0])
        for a, b in zip(corners, np.roll(corners, 1, axis=0), strict=True)
    ]
    return (np.min(sides, axis=0) >= 0) | (np.max(sides, axis=0) <= 0)
