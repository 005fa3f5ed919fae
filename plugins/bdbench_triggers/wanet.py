"""WaNet: a small smooth warp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Covers, Streams, param


@dataclass(frozen=True, kw_only=True)
class WaNet(Covers):
    """Dirty-label: images are warped by one smooth field; covers by that field and noise of their own.

    Poisons data. The field of the paper: k x k vectors drawn from the seed, of mean size s, bicubic between
    them, cut off at the image's borders. It is in the unit of the authors' code, 1/H of half the image, so that s = .5
    moves a pixel by a quarter of one in the mean. Covers are its noise mode: the field and, for each pixel,
    noise in [-1, 1] in that unit; they keep their label, and there are twice as many as poisons in the paper: a lower
    ``rate`` asks for a lower ``cover_rate``. Images are sampled by torch's grid_sample, and rounded.
    In the paper the attacker trains the model: ``wanet-trained``.
    """

    name = "wanet"
    paper = "Nguyen and Tran, WaNet: Imperceptible Warping-based Backdoor Attack, ICLR 2021"
    rate: float = param(0.1, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    cover_rate: float = param(
        0.2, help="covers / size of the whole training set; the paper: twice the rate", low=0, high=1
    )
    k: int = param(4, help="vectors of the field on a side", low=1)
    s: float = param(0.5, help="mean size of the vectors, in 1/H of half the image", low=0, exclusive=True)
    grid_rescale: float = param(
        1.0, help="what places are multiplied by: below 1 fewer are cut off at the borders", low=0, exclusive=True
    )
    jitter: float = param(1.0, help="largest noise of covers, in the unit of s", low=0)

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Warp by the field. Raises BdbenchError for images that are smaller than it."""
        return self._warp(images, streams)

    def cover(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Warp by the field and each image's own noise."""
        return self.jittered(images, streams, streams("jitter"))

    def jittered(self, images: np.ndarray, streams: Streams, noise: np.random.Generator) -> np.ndarray:
        """The same with noise from another stream than that of the covers."""
        return self._warp(images, streams, noise)

    def _warp(self, images: np.ndarray, streams: Streams, noise: np.random.Generator | None = None) -> np.ndarray:
        from bdbench_triggers.warping import smooth_field, warped

        height, width = images.shape[1:3]
        if self.k > min(height, width):
            raise BdbenchError(
                f"attack {self.name!r}: k={self.k} does not fit images of {height} x {width}: "
                f"expected k <= {min(height, width)}"
            )
        field = self.s * smooth_field((height, width), self.k, streams("trigger"))
        return warped(images, field, self.grid_rescale, self.jitter, noise)
