"""The floor below which no defense should be: chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView


@dataclass(frozen=True, kw_only=True)
class Random(Detector):
    """Scores drawn from the seed."""

    name = "random"
    assumption = "None: it looks at nothing."

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Uniform in [0, 1), float64 (n,)."""
        return tools.streams("scores").random(len(view.labels))
