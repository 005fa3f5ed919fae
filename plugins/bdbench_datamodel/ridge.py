"""Linear datamodels by ridge regression: all examples' effects on a target at once, where a difference of means takes
each alone and has the others for noise.
"""

from __future__ import annotations

import numpy as np

from bdbench_datamodel.influence import Factors


def ridge(masks: np.ndarray, margins: np.ndarray, penalty: float = 1.0) -> Factors:
    """argmin over w of ||F_i - S w||^2 + penalty * t * ||w||^2 for every target i, t the mean eigenvalue of S S'.

    masks: bool (m, n), margins: float (m, n), both centred over models, which takes the place of a bias. An example's
    own inclusion is one of its regressors, so that what it does to itself is in the diagonal and nowhere else. In
    factors of rank m: W = F' (S S' + penalty t I)^-1 S, the dual form, where m < n; else
    W = F' S (S'S + penalty t I)^-1. Raises ValueError unless penalty > 0.
    """
    if not penalty > 0:
        raise ValueError(f"penalty={penalty} is not allowed: expected above 0")
    held = masks - masks.mean(0)
    outputs = margins - margins.mean(0, dtype=np.float64)
    models, n = held.shape
    gram = held @ held.T if models < n else held.T @ held
    # Both products have one trace; the mean is over the models' eigenvalues in either form.
    gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / models
    if models < n:
        return _factors(outputs.T, np.linalg.solve(gram, held).T)
    return _factors(outputs.T @ held, np.linalg.inv(gram))


def _factors(left: np.ndarray, right: np.ndarray) -> Factors:
    return Factors(left.astype(np.float32), right.astype(np.float32))
