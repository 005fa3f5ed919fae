"""From subsets and margins to the train-on-train matrix W.

W is (n, n): row i is the datamodel of example i as a target, column j the effect on it of having example
j in the training set. The diagonal is zero: an example's effect on itself is no evidence of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

_ROWS = 2048


def difference_of_means(
    masks: np.ndarray, margins: np.ndarray, out_of_sample: bool = True, targets: np.ndarray | None = None
) -> np.ndarray:
    """W_ij = mean margin of i over models that hold j, minus the mean over models that do not.

    masks: bool (m, n), margins: float (m, n); returns float32 (n, n), or the rows (t, n) of ``targets``, int64 (t,),
    alone. The marginal estimate of a linear datamodel (Ilyas et al. 2022, sec. 2). As subsets have a fixed size, j
    stands in for another example: what is estimated is W_ij less the mean of the others' W_il.
    ``out_of_sample`` counts only models that do not hold the target i, as the k-output of Khaddaj et al.
    2023 (sec. 3) demands: a model that memorised i says little of what others do for it.
    An entry for which one of the two groups is empty is 0.
    """
    models, n = masks.shape
    holds = masks.astype(np.float32)
    lacks = 1 - holds
    # A target's mean margin cancels in the difference; taking it out first keeps float32 sums exact enough.
    centred = margins.astype(np.float32) - margins.mean(0, dtype=np.float64).astype(np.float32)
    targets = np.arange(n) if targets is None else targets
    weights = np.empty((len(targets), n), np.float32)
    for start in range(0, len(targets), _ROWS):
        rows = targets[start : start + _ROWS]
        counted = lacks[:, rows] if out_of_sample else np.ones((models, len(rows)), np.float32)
        outputs = centred[:, rows] * counted
        with np.errstate(invalid="ignore", divide="ignore"):
            block = outputs.T @ holds / (counted.T @ holds) - outputs.T @ lacks / (counted.T @ lacks)
        weights[start : start + _ROWS] = np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    weights[np.arange(len(targets)), targets] = 0
    return weights


def response_covariance(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """C_ij = the covariance over models of the margins of i and j, each freed of its own inclusion.

    masks: bool (m, n), margins: float (m, n); returns float32 (n, n), symmetric. With R_i the residual of
    regressing the margin of i on whether i was held, C = R'R / m. In a linear datamodel F = S W' + noise,
    rows of S having variance alpha (1 - alpha), C is near alpha (1 - alpha) W W': it holds the groups that W
    holds, and averages over all columns where W has one noisy entry. Not in the paper: ours.
    """
    residual = residuals(masks, margins)
    weights = residual.T @ residual / np.float32(len(masks))
    np.fill_diagonal(weights, 0)
    return weights


def residuals(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Each margin less its mean and less its regression on the example's own inclusion; float32 (m, n)."""
    held = (masks - masks.mean(0)).astype(np.float32)
    residual = (margins - margins.mean(0, dtype=np.float64)).astype(np.float32)
    own = (held * residual).sum(0, dtype=np.float64) / np.maximum((held**2).sum(0, dtype=np.float64), 1e-12)
    residual -= own.astype(np.float32) * held
    return residual


MARGINAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "out-of-sample": difference_of_means,
    "all": functools.partial(difference_of_means, out_of_sample=False),
    "covariance": response_covariance,
}
"""The estimators whose entries need two columns alone, by name."""
