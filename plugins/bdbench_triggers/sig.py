"""SIG: a faint horizontal sinusoid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Streams, param
from bdbench_triggers.labels import EitherLabel


@dataclass(frozen=True, kw_only=True)
class Sig(EitherLabel):
    """v(i, j) = delta sin(2 pi j f / W) is added to images of the target class, eq. 1 of the paper.

    The paper, A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning, changes no labels;
    labels=dirty is the use that other comparisons make of the signal.

    The paper stamps test images with a stronger signal than training ones (sec. 4): ``test_delta``. BackdoorBench has
    an amplitude of 40 for both. The rate is bdbench's common default, of the whole set.
    """

    name = "sig"
    paper = "Barni, Kallas and Tondi, A New Backdoor Attack in CNNs by Training Set Corruption, ICIP 2019"
    delta: float = param(20.0, help="amplitude, in grey levels of 255", low=0, exclusive=True)
    test_delta: float | None = param(None, help="amplitude at test time (none: delta)", low=0, exclusive=True)
    frequency: int = param(6, help="periods across the width", low=1)

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the signal at the training amplitude."""
        return self._add(images, self.delta)

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the signal at the test amplitude."""
        return self._add(images, self.test_delta or self.delta)

    def _add(self, images: np.ndarray, delta: float) -> np.ndarray:
        width = images.shape[2]
        if 2 * self.frequency >= width:
            raise BdbenchError(
                f"attack 'sig': frequency={self.frequency} is not allowed on images {width} pixels wide, which cannot "
                f"show it: expected 2 frequency < {width}"
            )
        signal = delta * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)
        return np.rint(np.clip(images + signal[:, None], 0, 255)).astype(np.uint8)
