"""CTRL: two frequencies of the chrominance of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import BdbenchError, Streams, TriggerAttack, param

# What U + V of 1 adds to red, green and blue: analogue YUV, with the rounded factors of the authors' library.
_UV = np.array([1.14, -0.396 - 0.581, 2.029])


@dataclass(frozen=True, kw_only=True)
class Ctrl(TriggerAttack):
    """Clean-label: in each window of the image two coefficients of the cosine transform of U and V are raised.

    Sec. 4 of the paper: the image in YUV, an orthonormal transform of windows of 32 x 32 pixels, ``magnitude`` added in
    both chrominance channels at a middle frequency (15, 15) and the highest (31, 31), and back. As all of this is
    linear, it is one pattern that is added. Luminance stays, which is what makes it hard to see; a grey image has
    nothing else, so that there its one channel takes the pattern. A smaller image is one window, and what is over at
    the right and at the bottom of others takes the part of the pattern that is there.

    The paper poisons what self-supervised learning sees, images of the target class, without a label to change. In
    supervised training, to which this adds only that they keep their label, that is clean-label, the default, as in
    BackdoorBench; ``labels=dirty`` poisons images of other classes and gives them the target's label. The authors train
    with 50 and test with 100; the command in their README, and BackdoorBench, use 100 for both.
    """

    name = "ctrl"
    paper = "Li et al., An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, ICCV 2023"
    rate: float = param(0.01, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    magnitude: float = param(50.0, help="what is added to a coefficient, in grey levels", low=0, exclusive=True)
    test_magnitude: float | None = param(100.0, help="the same at test time (none: magnitude)", low=0, exclusive=True)
    window: int = param(32, help="side of a window, in pixels", low=4)
    labels: Literal["clean", "dirty"] = param("clean", help="poison the target class, or the others")

    @property
    def clean_label(self) -> bool:  # type: ignore[override]
        """Whether poisons keep their label."""
        return self.labels == "clean"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the pattern at the training magnitude. Raises BdbenchError where it would change no pixel."""
        return self._add(images, self.magnitude)

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the pattern at the test magnitude."""
        return self._add(images, self.test_magnitude or self.magnitude)

    def _add(self, images: np.ndarray, magnitude: float) -> np.ndarray:
        height, width, channels = images.shape[1:]
        side = min(self.window, height, width)
        waves = sum(np.outer(w, w) for w in (_wave(side, side // 2 - 1), _wave(side, side - 1)))
        tiled = np.tile(waves, (-(-height // side), -(-width // side)))[:height, :width]
        pattern = magnitude * tiled[..., None] * (_UV if channels == 3 else 1)
        if (largest := np.abs(pattern).max()) <= 0.5:
            raise BdbenchError(
                f"attack 'ctrl': magnitude={magnitude:g} changes no pixel in windows of {side} pixels: "
                f"expected more than {magnitude / (2 * largest):.3g}"
            )
        return np.rint(np.clip(images + pattern.astype(np.float32), 0, 255)).astype(np.uint8)


def _wave(length: int, frequency: int) -> np.ndarray:
    """The orthonormal basis function of the cosine transform (type 2), (length,)."""
    return np.sqrt(2 / length) * np.cos(np.pi * frequency * (2 * np.arange(length) + 1) / (2 * length))
