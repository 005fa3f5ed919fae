"""Mean and covariance of points of which a share may be anything: the filters that SPECTRE builds on.

Diakonikolas et al., Being Robust (in High Dimensions) Can Be Practical, ICML 2017, algorithms 1 and 2, with the
constants and the cuts of SPECTRE's released code. That takes as many rounds as it needs, of which each leaves out at
least one point; here there are at most ``_ROUNDS``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# C and tau of the theorems, the slack of the covariance filter's cut, and the most rounds of a filter.
_FACTOR, _FAILURE, _SLACK, _ROUNDS = 10.0, 0.1, 3.0, 10
# Up to this dimension the fourth moments are a small matrix; above, they are only ever multiplied by.
_DENSE = 8
# Variances below this share of the largest are rounding.
_FLOOR = 1e-10

_Distances = Callable[[np.ndarray], tuple[np.ndarray, float] | None]
"""Of points (n, k): how far each is out, (n,), and from where on it is too far; None: they are as they should be."""


def moments(points: np.ndarray, share: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Robust mean (k,) and covariance (k, k) of points (n, k), of which a ``share`` in (0, 1) may be anything.

    At most ``limit`` of the points are left out of the covariance, and as many of the mean.
    """
    centred = points - points.mean(0)
    spread = covariance(centred[_kept(centred, limit, lambda part: _wide(part, share))])
    white = centred @ whitener(spread)
    return points[_kept(white, limit, lambda part: _shifted(part, share))].mean(0), spread


def covariance(points: np.ndarray) -> np.ndarray:
    """(k, k) of points (n, k), about their mean."""
    centred = points - points.mean(0)
    return centred.T @ centred / len(points)


def whitener(spread: np.ndarray) -> np.ndarray:
    """The inverse square root (k, k) of a covariance (k, k), of which no variance counts as less than rounding."""
    values, vectors = np.linalg.eigh(spread)
    floor = max(_FLOOR * values[-1], np.finfo(float).tiny)
    return (vectors / np.sqrt(np.maximum(values, floor))) @ vectors.T


def _kept(points: np.ndarray, limit: int, distances: _Distances) -> np.ndarray:
    """The indices left when what is too far out is taken away, the farthest first, in rounds; at most ``limit`` are."""
    kept, least = np.arange(len(points)), -(-limit // _ROUNDS)
    while limit > 0 and (found := distances(points[kept])) is not None:
        far, cut = found
        count = min(limit, max(least, int((far > cut).sum())))
        kept = np.delete(kept, np.argsort(-far, kind="stable")[:count])
        limit -= count
    return kept


def _wide(points: np.ndarray, share: float) -> tuple[np.ndarray, float] | None:
    """Algorithm 2: whether some quadratic form varies more over the points than it does over a normal law."""
    n, k = points.shape
    white = points @ whitener(points.T @ points / n)
    lengths, longest = (white**2).sum(1), _FACTOR * k * np.log(n / _FAILURE)
    if lengths.max() >= longest:
        return lengths, float(np.nextafter(longest, 0))
    variance, form = _most_varying(white)
    if variance <= 1 + _FACTOR * share * np.log(1 / share) ** 2:
        return None
    along = (_quadratic(white, form) - np.trace(form)) / np.sqrt(2)
    far = np.abs(along - np.median(along))
    beyond = far[far > _FACTOR * np.log(1 / share) + _SLACK]
    cut = float(beyond.min() if len(beyond) else far.max()) - _SLACK
    return (far, cut) if cut > 0 else None


def _most_varying(white: np.ndarray) -> tuple[float, np.ndarray]:
    """The quadratic form (k, k) of norm 1 that varies most over whitened points (n, k), after its variance."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n, k = white.shape
    if k <= _DENSE:
        squares = np.einsum("ni,nj->nij", white, white).reshape(n, k * k)
        unit = np.eye(k).ravel()
        values, vectors = np.linalg.eigh(squares.T @ squares / n - np.outer(unit, unit))
        return float(values[-1]), vectors[:, -1].reshape(k, k)

    def multiplied(flat: np.ndarray) -> np.ndarray:
        form = flat.reshape(k, k)
        moment = (white * _quadratic(white, form)[:, None]).T @ white / n
        return (moment - np.trace(form) * np.eye(k)).ravel()

    operator = LinearOperator((k * k, k * k), matvec=multiplied, dtype=np.float64)
    # An outlier's direction is found at once, and without one it does not matter which it is. The start is the same
    # whatever the signs of the axes, on which the order of the examples may bear.
    values, vectors = eigsh(operator, 1, which="LA", v0=np.eye(k).ravel(), ncv=8, tol=0.1)
    form = vectors[:, 0].reshape(k, k)
    return float(values[0]), (form + form.T) / 2


def _quadratic(points: np.ndarray, form: np.ndarray) -> np.ndarray:
    return np.asarray(((points @ form) * points).sum(1))


def _shifted(points: np.ndarray, share: float) -> tuple[np.ndarray, float] | None:
    """Algorithm 1: whether points of unit covariance vary more in some direction, as they do if some are elsewhere."""
    n, k = points.shape
    values, vectors = np.linalg.eigh(covariance(points))
    if values[-1] - 1 <= share * np.log(1 / share):
        return None
    far = np.abs((points - points.mean(0)) @ vectors[:, -1])
    ordered = np.sort(far)
    reach = ordered - 3 * np.sqrt(share * (values[-1] - 1))
    expected = 8 * np.exp(-(reach**2) / 2)
    expected += 8 * share / (np.maximum(reach, 1e-9) ** 2 * np.log(k * np.log(k / (share * _FAILURE))))
    heavier = (reach >= 0) & (np.arange(n, 0, -1) - 1 > n * expected)
    return (far, float(ordered[heavier.argmax()])) if heavier.any() else None
