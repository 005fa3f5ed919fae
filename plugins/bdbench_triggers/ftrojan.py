"""FTrojan: two frequencies of the colour channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Streams, TriggerAttack, param

# What one unit of the two colour channels adds to red, green and blue.
_COLOURS = {
    "yuv": [[0.0, -0.39465, 2.03211], [1.13983, -0.58060, 0.0]],
    "ycbcr": [[0.0, -0.344136, 1.772], [1.402, -0.714136, 0.0]],
}


@dataclass(frozen=True, kw_only=True)
class FTrojan(TriggerAttack):
    """Dirty-label: in every block of U and V, a middle and a high frequency of the cosine transform are raised.

    Poisons data. Sec. 3 of the paper: RGB to YUV, an orthonormal DCT of each block, ``magnitude`` added at (b/2 - 1,
    b/2 - 1) and (b - 1, b - 1) of b x b (15 and 31 of 32), and back. All of that is linear, so that what is added to an
    image is one fixed pattern, of 2 magnitude / b at most for each frequency: it is made once, and images are only
    clipped. Blocks are as large as the image where that is smaller; a block that the border cuts has the cut pattern. A
    grey image has one channel, which is taken. The authors' code converts by OpenCV's YCrCb in whole numbers, without
    clipping: ``colours=ycbcr`` is that conversion, not its overflow.
    """

    name = "ftrojan"
    paper = "Wang et al., An Invisible Black-box Backdoor Attack through Frequency Domain, ECCV 2022"
    magnitude: float = param(30.0, help="what is added to a coefficient, in grey levels", low=0, exclusive=True)
    block: int = param(32, help="side of a block, in pixels", low=2)
    bands: Literal["both", "mid", "high"] = param("both", help="which frequencies")
    colours: Literal["yuv", "ycbcr"] = param("yuv", help="how colours are converted")

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the pattern."""
        # Of whole numbers the sum is rounded as the pattern is.
        pattern = np.rint(self.pattern(images.shape[1:])).astype(np.int16)
        return np.clip(images + pattern, 0, 255).astype(np.uint8)

    def pattern(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is added to images of ``shape`` (H, W, C), float64, before rounding and clipping."""
        from scipy.fft import idctn

        height, width, channels = shape
        side = min(self.block, height, width)
        raised = np.zeros((side, side))
        for band, place in (("mid", side // 2 - 1), ("high", side - 1)):
            if self.bands in ("both", band):
                raised[place, place] = self.magnitude
        block = idctn(raised, norm="ortho")
        plane = np.tile(block, (-(-height // side), -(-width // side)))[:height, :width]
        weights = np.ones(1) if channels == 1 else np.sum(_COLOURS[self.colours], 0)
        return plane[..., None] * weights
