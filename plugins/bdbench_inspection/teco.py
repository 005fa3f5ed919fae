"""TeCo: a triggered image withstands some corruptions much longer than others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import InputDetector, State, Tools

_PIXELS_AT_ONCE = 2**21


@dataclass(frozen=True, kw_only=True)
class TeCo(InputDetector):
    """The standard deviation, over kinds of corruption, of the severity at which the label first changes.

    Sec. 4 of the paper: each corruption is applied at severities 1 to 5; one that the label withstands counts as 6.
    No more is seen of a model than its labels, and no clean example is needed. Of the paper's 15 corruptions 13 are
    here (see ``corruptions``). Each corrupts the image itself; in BackdoorBench's port each is applied to what all
    before it left. The authors leave the threshold to the defender.
    """

    name = "teco"
    paper = (
        "Liu et al., Detecting Backdoors During the Inference Stage Based on Corruption Robustness Consistency, "
        "CVPR 2023"
    )
    assumption = (
        "Some common corruptions spare the trigger and others break it, while clean images withstand all of them alike."
    )

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """The deviation of the severities, float64 (m,)."""
        from bdbench_inspection.corruptions import CORRUPTIONS

        predicted = tools.victim.predict(images)
        each = max(1, _PIXELS_AT_ONCE // int(np.prod(images.shape[1:])))
        severities = np.empty((len(images), len(CORRUPTIONS)))
        advance = tools.track(len(images), "corrupt")
        for start in range(0, len(images), each):
            part = slice(start, start + each)
            for column, name in enumerate(CORRUPTIONS):
                severities[part, column] = self._withstood(name, images[part], predicted[part], tools)
            advance(len(images[part]))
        return severities.std(1)

    def _withstood(self, name: str, images: np.ndarray, predicted: np.ndarray, tools: Tools) -> np.ndarray:
        """The first severity of a corruption that changes the label of each image, int64 (m,)."""
        from bdbench_inspection.corruptions import SEVERITIES, corrupted

        found, alive = np.full(len(images), SEVERITIES + 1), np.arange(len(images))
        for severity in range(1, SEVERITIES + 1):
            made = corrupted(name, images[alive], severity, tools.streams(name))
            changed = tools.victim.predict(made) != predicted[alive]
            found[alive[changed]], alive = severity, alive[~changed]
            if not len(alive):
                break
        return found
