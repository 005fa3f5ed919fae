"""How sure a mean over seeds is: of the seeds there are few, and of the examples behind each number as well.

All functions are element by element, on float64 arrays of one shape; NaN where something is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bdbench.leaderboard.columns import NUMBERS

# Of the standard normal distribution: 95 % lie within.
Z = 1.959963984540054


def wilson(share: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """The ends of Wilson's 95 % interval of a share of ``count`` independent examples; NaN where count is 0.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    p, n = np.asarray(share, float), np.asarray(count, float)
    n = np.where(n > 0, n, np.nan)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(np.clip(p * (1 - p), 0, None) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def reach(share: Any, count: Any) -> np.ndarray:
    """How far the farther end of Wilson's interval is from the share; 0 where count is 0: nothing is known of it."""
    low, high = wilson(share, count)
    return np.nan_to_num(np.fmax(np.asarray(share, float) - low, high - np.asarray(share, float)))


def reaches(shares: Mapping[str, Any], counts: Mapping[str, Any], name: str, own: bool = False) -> np.ndarray:
    """``reach`` of a number of ``NUMBERS``. Those of the terms of a sum add up by their squares.

    own: without what a stage is measured against, which rivals share, so that it falls out of their difference.
    """
    number = NUMBERS[name]
    if number.terms is None and not number.pool:
        return np.zeros(np.shape(shares[name]))
    if number.terms is None:
        return reach(shares[name], counts[name])
    squares = [
        (weight * reach(shares[term], counts[term])) ** 2
        for term, weight in number.terms.items()
        if not (own and term in number.bases)
    ]
    return np.sqrt(sum(squares))


def student(deviation: Any, count: Any) -> np.ndarray:
    """Half of Student's 95 % interval of a mean of ``count`` numbers with that deviation; NaN for fewer than two."""
    from scipy.special import stdtrit

    n = np.asarray(count, float)
    n = np.where(n > 1, n, np.nan)
    return stdtrit(n - 1, 0.975) * np.asarray(deviation, float) / np.sqrt(n)


def ends(mean: Any, half: Any, within: tuple[float, float] = (0.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """The ends of mean -+ half, as far as they are values that there can be."""
    mean, half = np.asarray(mean, float), np.asarray(half, float)
    return np.clip(mean - half, *within), np.clip(mean + half, *within)
