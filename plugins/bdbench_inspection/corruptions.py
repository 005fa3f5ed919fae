"""Common corruptions of images, at five severities, each the same for an image whatever is beside it.

Of the 15 of Hendrycks and Dietterich (Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
ICLR 2019), with the strengths of their ImageNet-C. Lengths in pixels are those numbers for images with a side of 32
and more, as where they are applied to CIFAR-10, and in proportion below. What is random is drawn once for all images of
a shape. Snow and frost are left out: they lay photographs of ice and the strokes of another library over the image.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import ndimage, sparse

SEVERITIES = 5
Corruption = Callable[[np.ndarray, int, Generator], np.ndarray]


def corrupted(name: str, images: np.ndarray, severity: int, generator: Generator) -> np.ndarray:
    """uint8 images (m, H, W, C) under the corruption called ``name`` at ``severity``, from 1 to 5; generator: fresh."""
    made = CORRUPTIONS[name](images.astype(np.float64) / 255, severity - 1, generator)
    # What is equal but for the last digits is rounded alike.
    return np.rint(np.round(made.clip(0, 1) * 255, 6)).astype(np.uint8)


def _gaussian_noise(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    return x + generator.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level], x.shape[1:])


def _shot_noise(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    photons, state = (60, 25, 12, 5, 3)[level], generator.bit_generator.state
    made = np.empty_like(x)
    for i, image in enumerate(x):
        # How many numbers a Poisson draw takes depends on the image before it.
        generator.bit_generator.state = state
        made[i] = generator.poisson(image * photons) / photons
    return made


def _impulse_noise(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    struck, salt = generator.random(x.shape[1:]), generator.random(x.shape[1:]) < 0.5
    return np.where(struck < (0.03, 0.06, 0.09, 0.17, 0.27)[level], salt, x)


def _defocus_blur(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    pixels, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    radius = _length(x, pixels)
    reach = int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = ndimage.gaussian_filter(np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1), soft)
    return ndimage.convolve(x, (disc / disc.sum())[None, :, :, None], mode="mirror")


def _glass_blur(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    height, width = x.shape[1:3]
    sigma, most = _length(x, sigma), max(1, round(_length(x, reach)))
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rounds):
        dy, dx = generator.integers(-most, most + 1, (2, height, width))
        there = (rows + dy).clip(0, height - 1), (columns + dx).clip(0, width - 1)
        rows, columns = rows[there], columns[there]
    return _soft(_soft(x, sigma)[:, rows, columns], sigma)


def _motion_blur(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    reach, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    angle = generator.uniform(-np.pi / 4, np.pi / 4)
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = _grid(x)
    moved = []
    for far in (_length(x, float(step)) for step in steps):
        there = rows + far * np.sin(angle), columns + far * np.cos(angle)
        moved.append([at.clip(0, side - 1) for at, side in zip(there, x.shape[1:3], strict=True)])
    return _sampled(x, np.array(moved), weights / weights.sum())


def _zoom_blur(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    most, step = ((0.10, 0.01), (0.15, 0.01), (0.20, 0.02), (0.25, 0.02), (0.30, 0.03))[level]
    factors = 1 + np.arange(round(most / step) + 1) * step
    grid = _grid(x)
    centre = grid.mean((1, 2), keepdims=True)
    places = np.array([grid, *((grid - centre) / factor + centre for factor in factors)])
    return _sampled(x, places, np.full(len(places), 1 / len(places)))


def _fog(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    thickness, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    brightest = x.max((1, 2, 3), keepdims=True)
    cloud = thickness * _plasma(x.shape[1:3], decay, generator)[None, :, :, None]
    return (x + cloud) * brightest / (brightest + thickness + 1e-12)


def _plasma(shape: tuple[int, ...], decay: float, generator: Generator) -> np.ndarray:
    """Clouds (H, W) in 0..1: noise on ever finer grids, each ``decay`` times fainter."""
    finest = int(np.ceil(np.log2(max(shape))))
    total = np.zeros(shape)
    for octave in range(finest + 1):
        grid = generator.random((2**octave + 1, 2**octave + 1)) / decay**octave
        rows, columns = (np.linspace(0, 2**octave, side) for side in shape)
        total += ndimage.map_coordinates(grid, np.meshgrid(rows, columns, indexing="ij"), order=1)
    low, high = total.min(), total.max()
    return (total - low) / (high - low or 1.0)


def _brightness(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    # The value of HSV rises; hue and saturation stay, so that channels keep their ratios.
    value = x.max(3, keepdims=True)
    brighter = np.minimum(value + 0.1 * (level + 1), 1)
    return np.where(value > 0, x / np.maximum(value, 1e-12), 1) * brighter


def _contrast(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    mean = x.mean((1, 2), keepdims=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[level] * (x - mean)


def _elastic(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    # As shares of the side: how far points move, how smoothly they do, and how far the whole is pulled and bent.
    far, smooth, pull = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        level
    ]
    side, grid = min(x.shape[1:3]), _grid(x)
    from_centre = [at - at.mean() for at in grid]
    moved = []
    for at in grid:
        bend = generator.uniform(-pull, pull, 3)
        field = ndimage.gaussian_filter(generator.uniform(-1, 1, at.shape), smooth * side)
        moved.append(at + bend[0] * from_centre[0] + bend[1] * from_centre[1] + side * (bend[2] + far * field))
    return _sampled(x, np.array([moved]), np.ones(1))


def _pixelate(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    for axis in (1, 2):
        side = x.shape[axis]
        few = max(1, int(side * share))
        # How much of each pixel lies in each of the few boxes, and the box that a pixel's middle lies in.
        edges = np.arange(few + 1) * side / few
        pixel = np.arange(side)
        inside = np.clip(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0, None)
        boxes = np.tensordot(inside / inside.sum(1, keepdims=True), x, (1, axis))
        x = np.moveaxis(boxes[((pixel + 0.5) * few / side).astype(int)], 0, axis)
    return x


def _jpeg(x: np.ndarray, level: int, generator: Generator) -> np.ndarray:
    from PIL import Image

    made = np.empty_like(x)
    for i, image in enumerate(np.rint(x * 255).astype(np.uint8)):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
            file, "jpeg", quality=(25, 18, 15, 10, 7)[level]
        )
        made[i] = np.asarray(Image.open(file)).reshape(image.shape) / 255
    return made


def _length(x: np.ndarray, pixels: float) -> float:
    return pixels * min(1.0, min(x.shape[1:3]) / 32)


def _soft(x: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0))


def _grid(x: np.ndarray) -> np.ndarray:
    """The row and the column of each pixel, float64 (2, H, W)."""
    return np.mgrid[: x.shape[1], : x.shape[2]].astype(np.float64)


def _sampled(x: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of images (m, H, W, C) read at several places (k, 2, H, W): rows and columns between pixels.

    Beyond the edge images are mirrored.
    """
    height, width, channels = x.shape[1:]
    # One matrix reads all places of all images.
    parts = [
        (weight * down * across, row * width + column)
        for (rows, columns), weight in zip(places.reshape(len(places), 2, -1), weights, strict=True)
        for row, down in _around(rows, height)
        for column, across in _around(columns, width)
    ]
    values, sources = np.array(parts).transpose(1, 0, 2)
    made = np.broadcast_to(np.arange(height * width), values.shape)
    there = made.ravel(), sources.ravel().astype(np.int64)
    reading = sparse.csr_array((values.ravel(), there), (height * width, height * width))
    flat = np.moveaxis(x, 0, -1).reshape(height * width, -1)
    return np.moveaxis((reading @ flat).reshape(height, width, channels, len(x)), -1, 0)


def _around(at: np.ndarray, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pixels before and after places (k,) on an axis, each with its share in what is read between them."""
    last = side - 1
    at = last - np.abs(last - np.abs(at) % max(1, 2 * last))
    before = np.floor(at).astype(np.int64)
    return [(before, 1 - (at - before)), (np.minimum(before + 1, last), at - before)]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
