"""An attack that inverts a stripe, and a defense that looks for bright images."""

from dataclasses import dataclass

import numpy as np

from bdbench import Detector, TriggerAttack, param


@dataclass(frozen=True, kw_only=True)
class Invert(TriggerAttack):
    """Dirty-label: the top rows are inverted."""

    name = "invert"
    rows: int = param(2, help="how many rows", low=1)

    def stamp(self, images, streams):
        stamped = images.copy()
        stamped[:, : self.rows] = 255 - stamped[:, : self.rows]
        return stamped


@dataclass(frozen=True, kw_only=True)
class Brightness(Detector):
    """The mean of an image's pixels: an inverted stripe is brighter than a digit's margin."""

    name = "brightness"
    oracles = ("target_labels",)

    def score(self, view, tools):
        brightness = view.images.mean((1, 2, 3), dtype=np.float64)
        return np.where(np.isin(view.labels, tools.oracle("target_labels")), brightness, 0.0)
