"""Which label is unlike the others, as SCAn and Beatrix decide it."""

from __future__ import annotations

import numpy as np

# Makes the median absolute deviation the standard deviation of a normal law.
_CONSISTENCY = 1.4826
CONTAMINATED = float(np.exp(2))
"""The anomaly index from which on both papers call a label contaminated."""


def index(values: np.ndarray) -> np.ndarray:
    """How far each value (K,) lies above the median of those that are finite, in median absolute deviations.

    Consistent ones; negative below the median, and 0 where a value is not finite. The papers take the distance on
    either side: below the median it says nothing of poisons.
    """
    found = np.isfinite(values)
    if not found.any():
        return np.zeros(len(values))
    above = np.where(found, values, 0) - np.median(values[found])
    scale = _CONSISTENCY * float(np.median(np.abs(above[found])))
    return np.where(found, above / max(scale, np.finfo(float).tiny ** 0.5), 0)
