"""Groups under suspicion, and what withholding them did."""

from __future__ import annotations

import numpy as np

from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.withheld import Effect


def group(
    label: int, members: int, size: int = 40, sharpness: float = 0.75, kind: str = "sharpest", explained: float = 0.0
) -> Suspects:
    """The first ``members`` of a class of ``size`` that starts at ``label * size``, told perfectly."""
    inside = np.arange(size) < members
    return Suspects(label, label * size + np.arange(size), inside, inside.astype(float), sharpness, kind, explained)


def effect(suspect: Suspects, strength: float, alone: float, labels: int = 2) -> Effect:
    """One whose members' margins all fall by ``strength``, to ``alone``; their class-mates' stay as high."""
    without = np.where(suspect.members, alone, strength + alone)
    return Effect(without, np.where(suspect.members, strength, 0.0), alone, strength, np.zeros(labels))
