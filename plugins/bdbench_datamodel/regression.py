"""Linear datamodels by regression: all examples' effects on a target at once, where a difference of means takes
each alone and has the others for noise (Ilyas et al. 2022, sec. 2).

Both centre subsets S (m, n) and margins F (m, n) over models, which takes the place of a bias. An example's own
inclusion is one of its regressors, so that what it does to itself is in the diagonal and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bdbench_datamodel.influence import Dense, Factors

STEPS = 500
_TOLERANCE = 1e-4


def _centred(masks: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    held = masks - masks.mean(0)
    outputs = margins - margins.mean(0, dtype=np.float64)
    return held.astype(np.float32), outputs.astype(np.float32)


def ridge(masks: np.ndarray, margins: np.ndarray, penalty: float = 1.0) -> Factors:
    """argmin over w of ||F_i - S w||^2 + penalty * t * ||w||^2 for every target i, t the mean eigenvalue of S S'.

    masks: bool (m, n), margins: float (m, n). In factors of rank m: W = F' (S S' + penalty t I)^-1 S, the dual form,
    where m < n; else W = F' S (S'S + penalty t I)^-1. Raises ValueError unless penalty > 0.
    """
    if not penalty > 0:
        raise ValueError(f"penalty={penalty} is not allowed: expected above 0")
    held, outputs = _centred(masks, margins)
    models, n = held.shape
    gram = held @ held.T if models < n else held.T @ held
    gram = gram.astype(np.float64)
    # Both products have one trace; the mean is over the models' eigenvalues in either form.
    gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / models
    if models < n:
        return Factors(outputs.T, np.linalg.solve(gram, held).astype(np.float32).T)
    return Factors((outputs.T @ held), np.linalg.inv(gram).astype(np.float32))


def lasso(
    masks: np.ndarray,
    margins: np.ndarray,
    penalty: float = 0.3,
    advance: Callable[[int], None] = lambda steps: None,
) -> Dense:
    """argmin over w of ||F_i - S w||^2 / (2 m) + l_i ||w||_1 for every target i, the paper's own estimator.

    masks: bool (m, n), margins: float (m, n). l_i is ``penalty`` times the smallest value for which w is zero, as
    each target has its own scale. All targets at once by accelerated proximal steps with restarts (Beck & Teboulle
    2009; O'Donoghue & Candes 2015) until no weight moves by 1e-4 of the largest, or 500 steps; ``advance`` counts
    them. Raises ValueError unless 0 < penalty < 1.
    """
    if not 0 < penalty < 1:
        raise ValueError(f"penalty={penalty} is not allowed: expected in (0, 1)")
    held, outputs = _centred(masks, margins)
    models, n = held.shape
    held /= np.float32(np.sqrt(models))
    correlation = outputs.T @ held / np.float32(np.sqrt(models))
    # With few models two thin products take less time than a square one.
    thin = 2 * models < n
    gram = held @ held.T if thin else held.T @ held
    step = np.float32(1 / np.linalg.eigvalsh(gram)[-1])
    limits = penalty * np.abs(correlation).max(1, keepdims=True)
    weights = np.zeros_like(correlation)
    ahead, momentum = weights, 1.0
    for _ in range(STEPS):
        fitted = (ahead @ held.T) @ held if thin else ahead @ gram
        moved = ahead - step * (fitted - correlation)
        moved = np.sign(moved) * np.maximum(np.abs(moved) - step * limits, 0)
        change = moved - weights
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if np.sum((ahead - moved) * change) > 0:
            following, momentum = 1.0, 1.0
        ahead = moved + np.float32((momentum - 1) / following) * change
        weights, momentum = moved, following
        advance(1)
        if np.abs(change).max() <= _TOLERANCE * np.abs(weights).max():
            break
    return Dense(weights)
