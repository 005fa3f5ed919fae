"""From subsets and margins to the train-on-train matrix W.

W is (n, n): row i is the datamodel of example i as a target, column j the effect on it of having example
j in the training set. The diagonal is zero: an example's effect on itself is no evidence of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import check_memory
from bdbench_datamodel.influence import Factors, Influence

_ROWS = 2048
# What is searched in factors, or class by class, never forms all of W.
_INSTEAD = "classes=each, estimator=covariance without compat, or fewer examples (subset=N)"


@dataclass(frozen=True)
class OutOfSample(Influence):
    """The difference of means over models without the target, from masks and margins (m, n): its entry (i, j) needs
    no more than their columns i and j, but it is of no low rank, since which models count differs by target.
    """

    masks: np.ndarray
    margins: np.ndarray

    @property
    def examples(self) -> int:  # type: ignore[override]
        """n."""
        return self.masks.shape[1]

    def block(self, index: np.ndarray) -> np.ndarray:
        """float32 (k, k)."""
        return difference_of_means(self.masks[:, index], self.margins[:, index])


def difference_of_means(masks: np.ndarray, margins: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    """W_ij = mean margin of i over models that hold j but not i, minus the mean over those that hold neither.

    masks: bool (m, n), margins: float (m, n); returns float32 (n, n), or the rows (t, n) of ``targets``, int64 (t,),
    alone. The marginal estimate of a linear datamodel (Ilyas et al. 2022, sec. 2), out of sample, as the k-output
    of Khaddaj et al. 2023 (sec. 3) demands: a model that memorised i says little of what others do for it. As subsets
    have a fixed size, j stands in for another example: what is estimated is W_ij less the mean of the others' W_il.
    An entry for which one of the two groups is empty is 0.
    """
    n = masks.shape[1]
    holds = masks.astype(np.float32)
    lacks = 1 - holds
    centred = _centred(margins)
    targets = np.arange(n) if targets is None else targets
    check_memory(4 * len(targets) * n, f"the matrix of {len(targets)} by {n} examples", _INSTEAD)
    weights = np.empty((len(targets), n), np.float32)
    for start in range(0, len(targets), _ROWS):
        rows = targets[start : start + _ROWS]
        counted = lacks[:, rows]
        outputs = centred[:, rows] * counted
        with np.errstate(invalid="ignore", divide="ignore"):
            block = outputs.T @ holds / (counted.T @ holds) - outputs.T @ lacks / (counted.T @ lacks)
        weights[start : start + _ROWS] = np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    weights[np.arange(len(targets)), targets] = 0
    return weights


def difference_over_all(masks: np.ndarray, margins: np.ndarray) -> Factors:
    """W_ij = mean margin of i over models that hold j, minus the mean over models that do not, whether they hold i.

    masks: bool (m, n), margins: float (m, n). In factors of rank m: the margins, and how each model counts for each
    example. Columns of examples that all models hold, or none, are 0.
    """
    counts = masks.sum(0)
    with np.errstate(divide="ignore"):
        counted = np.where(masks, 1 / counts, -1 / (len(masks) - counts))
    counted[:, (counts == 0) | (counts == len(masks))] = 0
    return Factors(_centred(margins).T, counted.astype(np.float32).T)


def response_covariance(masks: np.ndarray, margins: np.ndarray) -> Factors:
    """C_ij = the covariance over models of the margins of i and j, each freed of its own inclusion.

    masks: bool (m, n), margins: float (m, n); symmetric, in factors of rank m. With R_i the residual of
    regressing the margin of i on whether i was held, C = R'R / m. In a linear datamodel F = S W' + noise,
    rows of S having variance alpha (1 - alpha), C is near alpha (1 - alpha) W W': it holds the groups that W
    holds, and averages over all columns where W has one noisy entry. Not in the paper: ours.
    """
    residual = residuals(masks, margins).T
    return Factors(residual / np.float32(len(masks)), residual)


def _centred(margins: np.ndarray) -> np.ndarray:
    """A target's mean margin cancels in any difference; taking it out first keeps float32 sums exact enough."""
    return margins.astype(np.float32) - margins.mean(0, dtype=np.float64).astype(np.float32)


def residuals(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Each margin less its mean and less its regression on the example's own inclusion; float32 (m, n)."""
    held = (masks - masks.mean(0)).astype(np.float32)
    residual = (margins - margins.mean(0, dtype=np.float64)).astype(np.float32)
    own = (held * residual).sum(0, dtype=np.float64) / np.maximum((held**2).sum(0, dtype=np.float64), 1e-12)
    residual -= own.astype(np.float32) * held
    return residual
