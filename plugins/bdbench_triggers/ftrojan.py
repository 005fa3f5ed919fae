"""FTrojan: two frequencies of the colour channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Streams, TriggerAttack, param
from bdbench_triggers.chrominance import raised


@dataclass(frozen=True, kw_only=True)
class FTrojan(TriggerAttack):
    """Dirty-label: in every block of U and V, a middle and a high frequency of the cosine transform are raised.

    Poisons data. RGB to YUV, an orthonormal DCT of each block, ``magnitude`` added at (b/2 - 1,
    b/2 - 1) and (b - 1, b - 1) of b x b (15 and 31 of 32), and back. All of that is linear, so that what is added to an
    image is one fixed pattern, of 2 magnitude / b at most for each frequency: it is made once, and images are only
    clipped. Blocks are as large as the image where that is smaller; a block that the border cuts has the cut pattern. A
    grey image has one channel, which is taken. The authors' code converts by OpenCV's YCrCb in whole numbers, without
    clipping: ``colours=ycbcr`` is that conversion, not its overflow.
    Copies of their training script have a magnitude of 30 and a rate of .05, or 20 and .02; BackdoorBench has 30.
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
        """What is added to images of ``shape`` (H, W, C), float32, before rounding and clipping."""
        return raised(shape, self.magnitude, self.block, self.bands, self.colours)
