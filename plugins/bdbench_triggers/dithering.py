"""Fewer levels of grey, with the rounding errors diffused."""

from __future__ import annotations

import numba
import numpy as np


def squeezed(images: np.ndarray, bits: int, dither: bool) -> np.ndarray:
    """uint8 (n, H, W, C) with 2**bits levels from 0 to 255 in each channel, rounded to whole grey levels.

    dither: by Floyd and Steinberg's rule, row by row from left to right, 7, 3, 5 and 1 sixteenths of the error of a
    pixel go to its neighbours right, below left, below and below right; what would go outside is lost.
    """
    top = 2**bits - 1
    if not dither:
        levels = np.rint(np.rint(np.arange(256) * top / 255) * 255 / top).astype(np.uint8)
        return levels[images]
    out = np.empty_like(images)
    _diffuse(np.ascontiguousarray(images), out, top)
    return out


@numba.njit(nogil=True, cache=True)
def _diffuse(images: np.ndarray, out: np.ndarray, top: int) -> None:
    n, height, width, channels = images.shape
    here = np.zeros((channels, width + 2))
    below = np.zeros((channels, width + 2))
    for i in range(n):
        below[:] = 0.0
        for y in range(height):
            # What was below is here now; a column beside the image takes what is lost.
            here, below = below, here
            below[:] = 0.0
            for x in range(width):
                for c in range(channels):
                    wanted = images[i, y, x, c] + here[c, x + 1]
                    level = min(max(np.rint(wanted * top / 255), 0.0), float(top)) * 255 / top
                    error = (wanted - level) / 16
                    out[i, y, x, c] = np.uint8(np.rint(level))
                    here[c, x + 2] += 7 * error
                    below[c, x] += 3 * error
                    below[c, x + 1] += 5 * error
                    below[c, x + 2] += error
