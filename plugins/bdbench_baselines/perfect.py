"""The ceiling above which no filter can be: the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView


@dataclass(frozen=True, kw_only=True)
class PerfectFilter(Detector):
    """Told which examples are poisons, it flags exactly these: what removing examples can achieve at best."""

    name = "perfect-filter"
    assumption = "None: it is told which examples are poisons."
    oracles = ("poisons",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """1 for poisons, 0 for all others, float64 (n,)."""
        poisons: np.ndarray = tools.oracle("poisons")
        tools.conclude(flagged=poisons)
        return poisons.astype(np.float64)
