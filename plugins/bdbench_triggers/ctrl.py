"""CTRL: two frequencies of the chrominance of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Streams, param
from bdbench_triggers.chrominance import raised
from bdbench_triggers.labels import EitherLabel


@dataclass(frozen=True, kw_only=True)
class Ctrl(EitherLabel):
    """Clean-label: in each window of the image two coefficients of the cosine transform of U and V are raised.

    Poisons data. Sec. 4 of the paper: the image in YUV, an orthonormal transform of windows of 32 x 32 pixels,
    ``magnitude`` added in both colour channels at a middle frequency (15, 15) and the highest (31, 31), and back. All
    of this is linear, so that it is one pattern that is added: see ``chrominance.raised``, also for other sizes and for
    grey images, whose only channel takes it.

    The paper poisons what self-supervised learning sees: images of the target class, with no label to change. For
    supervised training that is clean-label, the default, as in BackdoorBench; ``labels=dirty`` poisons images of the
    other classes instead. The paper's magnitude is 50 in training and, as users of its code report, 100 at test time;
    the authors' code has one magnitude for both, 100 in its README's command, and so has BackdoorBench.
    """

    name = "ctrl"
    paper = "Li et al., An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, ICCV 2023"
    rate: float = param(0.01, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    magnitude: float = param(50.0, help="what is added to a coefficient, in grey levels", low=0, exclusive=True)
    test_magnitude: float | None = param(100.0, help="the same at test time (none: magnitude)", low=0, exclusive=True)
    window: int = param(32, help="side of a window, in pixels", low=4)

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the pattern at the training magnitude. Raises BdbenchError where it would change no pixel."""
        return self._add(images, self.magnitude)

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the pattern at the test magnitude."""
        return self._add(images, self.test_magnitude or self.magnitude)

    def _add(self, images: np.ndarray, magnitude: float) -> np.ndarray:
        pattern = raised(images.shape[1:], magnitude, self.window)
        if (largest := float(np.abs(pattern).max())) <= 0.5:
            raise BdbenchError(
                f"attack 'ctrl': magnitude={magnitude:g} changes no pixel of images of {images.shape[1]} x "
                f"{images.shape[2]}: expected more than {magnitude / (2 * largest):.3g}"
            )
        return np.rint(np.clip(images + pattern, 0, 255)).astype(np.uint8)
