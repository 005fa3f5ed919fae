"""How much a trigger shows: the attacked test images against those that they were made of."""

from __future__ import annotations

import numpy as np

from bdbench.storage.record import Stealth

# So many values are compared, and at least so many images: the mean over more is no other.
_VALUES, _FEWEST = 3_000_000, 16
# Values of images at work at once, of which SSIM holds ninety times the bytes.
_AT_ONCE = 300_000
# Side of the windows of SSIM, and its two constants, shares of the range of 255 grey levels.
_WINDOW, _K1, _K2 = 7, 0.01, 0.03


def visibility(before: np.ndarray, after: np.ndarray) -> Stealth:
    """Of the pairs that differ: the means of PSNR, in decibels, and of SSIM, and the largest change, in grey levels.

    before, after: uint8 (m, H, W, C). PSNR and SSIM are of the first pairs, as many as 3 million values have, at least
    16; SSIM is None for images smaller than its windows.
    """
    changed = np.flatnonzero((before != after).any((1, 2, 3)))
    if not len(changed):
        return Stealth(None, None, None)
    largest = max(int(np.abs(before[i].astype(int) - after[i]).max()) for i in changed)
    count = max(_FEWEST, _VALUES // before[0].size)
    chosen = changed[:count]
    noise, similar = [], []
    for part in np.array_split(chosen, min(len(chosen), -(-len(chosen) * before[0].size // _AT_ONCE))):
        x, y = (images[part].astype(float) for images in (before, after))
        noise.append(psnr(x, y))
        similar.append(ssim(x, y))
    found = [one for one in similar if one is not None]
    whole = float(np.concatenate(found).mean()) if found else None
    return Stealth(float(np.concatenate(noise).mean()), whole, largest)


def psnr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """10 log10(255^2 / mean squared difference) of each pair of float (m, H, W, C) that differs, float64 (m,)."""
    return 10 * np.log10(255**2 / ((x - y) ** 2).mean((1, 2, 3)))


def ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Structural similarity of each pair of float (m, H, W, C), float64 (m,); None if a side is below 7 pixels.

    Wang et al. 2004, eq. 13, in even windows of 7 x 7 that lie inside the image, with sample covariances, and the mean
    over windows and channels: as scikit-image has it by default.
    """
    from scipy.ndimage import uniform_filter

    if min(x.shape[1:3]) < _WINDOW:
        return None
    pad = _WINDOW // 2

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, (1, _WINDOW, _WINDOW, 1))[:, pad:-pad, pad:-pad]

    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = (unbiased * (mean(a * b) - m) for a, b, m in ((x, x, mx * mx), (y, y, my * my), (x, y, mx * my)))
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    similar = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similar.mean((1, 2, 3))
