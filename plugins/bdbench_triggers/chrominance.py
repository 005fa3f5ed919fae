"""A pattern of raised cosine frequencies in the colours of an image, for the attacks that add one."""

from __future__ import annotations

from typing import Literal

import numpy as np

# What one unit of the two colour channels adds to red, green and blue.
_COLOURS = {
    "yuv": [[0.0, -0.39465, 2.03211], [1.13983, -0.58060, 0.0]],
    "ycbcr": [[0.0, -0.344136, 1.772], [1.402, -0.714136, 0.0]],
}


def raised(
    shape: tuple[int, ...],
    magnitude: float,
    block: int,
    bands: Literal["both", "mid", "high"] = "both",
    colours: Literal["yuv", "ycbcr"] = "yuv",
) -> np.ndarray:
    """What is added to images of ``shape`` (H, W, C), float32, before rounding and clipping.

    To the colour channels, to an orthonormal cosine transform of each block of b x b pixels and ``magnitude`` more at
    (b/2 - 1, b/2 - 1) and (b - 1, b - 1), and back: all of that is linear, so that it is one fixed pattern. Blocks are
    as large as the image where that is smaller; a block that the border cuts has the cut pattern. A grey image has one
    channel, which is taken.
    """
    from scipy.fft import idctn

    height, width, channels = shape
    side = min(block, height, width)
    coefficients = np.zeros((side, side))
    for band, place in (("mid", side // 2 - 1), ("high", side - 1)):
        if bands in ("both", band):
            coefficients[place, place] = magnitude
    plane = np.tile(idctn(coefficients, norm="ortho"), (-(-height // side), -(-width // side)))[:height, :width]
    weights = np.ones(1) if channels == 1 else np.sum(_COLOURS[colours], 0)
    return (plane[..., None] * weights).astype(np.float32)
