"""A square patch in a corner, for the attacks that stamp one."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import BdbenchError, Streams, TriggerAttack, param


@dataclass(frozen=True, kw_only=True)
class Patch(TriggerAttack, ABC):
    """A trigger attack whose stamp is a square patch that replaces the pixels of one corner."""

    size: int = param(3, help="side of the patch, in pixels", low=1)
    corner: Literal["bottom-right", "bottom-left", "top-right", "top-left"] = param(
        "bottom-right", help="where the patch is"
    )
    margin: int = param(0, help="pixels between the patch and the borders", low=0)
    pattern: Literal["white", "checker", "noise"] = param(
        "checker", help="white; black and white in turn, white in the corners; or noise drawn from the seed"
    )

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Put the patch on. Raises BdbenchError if it does not fit."""
        height, width, channels = images.shape[1:]
        if self.size + self.margin > min(height, width):
            raise BdbenchError(
                f"attack {self.name!r}: size={self.size} with margin={self.margin} does not fit images of "
                f"{height} x {width}: expected size + margin <= {min(height, width)}"
            )
        vertical, horizontal = self.corner.split("-")
        rows = self._place(vertical == "bottom", height)
        columns = self._place(horizontal == "right", width)
        stamped = images.copy()
        stamped[:, rows, columns] = self._patch(channels, streams)
        return stamped

    def _place(self, at_end: bool, length: int) -> slice:
        start = length - self.margin - self.size if at_end else self.margin
        return slice(start, start + self.size)

    def _patch(self, channels: int, streams: Streams) -> np.ndarray:
        shape = (self.size, self.size, channels)
        if self.pattern == "noise":
            return streams("trigger").integers(0, 256, shape).astype(np.uint8)
        white = np.ones(shape[:2], bool) if self.pattern == "white" else np.indices(shape[:2]).sum(0) % 2 == 0
        return np.broadcast_to(np.where(white, 255, 0).astype(np.uint8)[..., None], shape)
