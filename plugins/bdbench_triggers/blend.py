"""Blend: a faint picture over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from bdbench import BdbenchError, Streams, param
from bdbench_triggers.mapping import Mapped


@dataclass(frozen=True, kw_only=True)
class Blend(Mapped):
    """Dirty-label: x' = (1 - alpha) x + alpha p, with p uniform noise drawn from the seed, or a picture.

    The blended injection strategy of Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning. The paper
    proposes a larger weight at test time than in training: ``test_alpha``; by default the two are the same, as in most
    implementations. The rate is bdbench's common default.
    """

    name = "blend"
    paper = "Chen et al., Targeted Backdoor Attacks on Deep Learning Systems, arXiv:1712.05526"
    alpha: float = param(0.2, help="weight of the pattern", low=0, high=1, exclusive=True)
    test_alpha: float | None = param(None, help="its weight at test time (none: alpha)", low=0, high=1, exclusive=True)
    pattern: str = param("noise", help="'noise', or the path of a picture that is resized to the images")

    def files(self) -> tuple[Path, ...]:
        """The picture, if it is one."""
        return () if self.pattern == "noise" else (Path(self.pattern),)

    def variant(self, nth: int) -> Self:
        """Itself, with other noise. Raises BdbenchError for a picture, of which there is one."""
        if nth and self.pattern != "noise":
            raise BdbenchError(f"pattern={self.pattern} is one trigger: expected pattern=noise for several targets")
        return self

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Blend at the training strength."""
        return self._blend(images, streams, self.alpha)

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Blend at the test strength."""
        return self._blend(images, streams, self.test_alpha or self.alpha)

    def _blend(self, images: np.ndarray, streams: Streams, alpha: float) -> np.ndarray:
        pattern = self._pattern(images.shape[1:], streams)
        return np.rint((1 - alpha) * images + alpha * pattern).astype(np.uint8)

    def _pattern(self, shape: tuple[int, ...], streams: Streams) -> np.ndarray:
        if self.pattern == "noise":
            return streams("trigger").integers(0, 256, shape)
        from PIL import Image

        try:
            with Image.open(self.pattern) as file:
                picture = file.convert("RGB" if shape[2] == 3 else "L").resize((shape[1], shape[0]))
        except OSError as error:
            raise BdbenchError(f"cannot read pattern={self.pattern}: {error}: expected 'noise' or a picture") from None
        return np.asarray(picture, np.float64).reshape(shape)
