"""What a round of confusion training draws from the last, and what is made of it in the end."""

from __future__ import annotations

import numpy as np

from bdbench import Streams

# Of each label, at least so much is distilled.
_LEAST = 0.02


def distilled(fit: np.ndarray, labels: np.ndarray, share: float, streams: Streams) -> np.ndarray:
    """Sorted indices of the ``share`` that is fitted best, and of the best of each label; ties by chance."""
    order = np.lexsort((streams("ties").permutation(len(fit)), -fit))
    chosen = np.zeros(len(fit), bool)
    chosen[order[: max(2, round(share * len(fit)))]] = True
    for label in np.unique(labels):
        members = order[labels[order] == label]
        missing = int(_LEAST * len(members)) - int(chosen[members].sum())
        chosen[members[~chosen[members]][: max(0, missing)]] = True
    return np.flatnonzero(chosen)


def likelihood_ratio(features: np.ndarray, isolated: np.ndarray) -> float:
    """How much likelier an example is by two Gaussians, of ``isolated`` (n,) and of the rest, than by the rest's.

    In two principal components of the features (n, d), as a geometric mean; 1 if either has fewer than two examples.
    """
    from scipy.stats import multivariate_normal

    if min(isolated.sum(), (~isolated).sum()) < 2 or features.shape[1] < 2:
        return 1.0
    centred = features.astype(np.float64) - features.mean(0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    laws = [(points[part].mean(0), _covariance(points[part])) for part in (isolated, ~isolated)]
    own, other = (multivariate_normal.logpdf(points[isolated], *law) for law in laws)
    return float(np.exp(min((own - other).sum() / len(points), 700.0)))


def _covariance(points: np.ndarray) -> np.ndarray:
    """Of points (n, 2); wider by 0.001, as the authors', and by a millionth, so that two points have a density, too.

    The authors add it off the diagonal as well.
    """
    found = np.cov(points.T)
    return found + (1e-3 + 1e-6 * np.trace(found)) * np.eye(2)
