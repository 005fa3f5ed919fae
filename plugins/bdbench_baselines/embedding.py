"""UMAP in two dimensions: neighbours stay neighbours, and clusters come apart."""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy import sparse

# Of the authors' implementation: an edge is drawn with so many others that are none; steps are cut off; few points
# get more epochs; where coordinates start, and how much they are shaken; the least scale of a neighbourhood.
_NONE, _CUT, _FEW, _START, _NOISE, _LEAST = 5, 4.0, 10_000, 10.0, 1e-4, 1e-3


def embedded(points: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    """Points (n, d) in two dimensions, float64 (n, 2), by UMAP (McInnes et al. 2018) with min_dist 0.

    neighbours: of each point, itself among them. It starts from two principal components; the original from a spectral
    embedding.
    """
    epochs = 500 if len(points) <= _FEW else 200
    graph = fuzzy_graph(points, min(neighbours, len(points)))
    if not graph.nnz:
        return _principal(points)
    graph.data[graph.data < graph.data.max() / epochs] = 0
    graph.eliminate_zeros()
    edges, (a, b) = graph.tocoo(), _curve()
    rng = np.random.default_rng(seed)
    start = _principal(points)
    start = start * _START / max(float(np.abs(start).max()), 1e-12) + rng.normal(0, _NOISE, start.shape)
    span = np.ptp(start, axis=0)
    start = _START * (start - start.min(0)) / np.where(span > 0, span, 1)
    waits = edges.data.max() / edges.data
    seed = int(rng.integers(2**31))
    return _moved(start, edges.row.astype(np.int64), edges.col.astype(np.int64), waits, epochs, a, b, seed)


def fuzzy_graph(points: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """How much two points are neighbours, (n, n) in 0..1: for either, or for both."""
    from sklearn.neighbors import NearestNeighbors

    distances, index = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(points)
    others = index != np.arange(len(points))[:, None]
    weights = _memberships(distances, math.log2(max(2, neighbours)), float(distances.mean()))
    rows = np.repeat(np.arange(len(points)), neighbours)
    one_way = sparse.csr_matrix(((weights * others).ravel(), (rows, index.ravel())), (len(points), len(points)))
    both = one_way.multiply(one_way.T)
    graph = sparse.csr_matrix(one_way + one_way.T - both)
    graph.eliminate_zeros()
    return graph


@numba.njit(nogil=True, cache=True)
def _memberships(distances: np.ndarray, target: float, mean: float) -> np.ndarray:
    """exp(-(d - nearest) / scale), so scaled that they sum to ``target``, without the first, the point itself."""
    weights = np.zeros_like(distances)
    for i, row in enumerate(distances):
        positive = row[row > 0]
        nearest = positive[0] if len(positive) else 0.0
        beyond = np.maximum(row[1:] - nearest, 0)
        low, high, scale = 0.0, np.inf, 1.0
        for _ in range(64):
            total = np.exp(-beyond / scale).sum()
            if abs(total - target) < 1e-5:
                break
            if total > target:
                high = scale
                scale = (low + high) / 2
            else:
                low = scale
                scale = scale * 2 if high == np.inf else (low + high) / 2
        scale = max(scale, _LEAST * (row.mean() if nearest > 0 else mean), 1e-300)
        weights[i] = np.exp(-np.maximum(row - nearest, 0) / scale)
    return weights


def _curve() -> tuple[float, float]:
    """a, b of 1 / (1 + a x^2b), which stands for exp(-x)."""
    from scipy.optimize import curve_fit

    x = np.linspace(0, 3, 300)
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, np.exp(-x))
    return float(a), float(b)


def _principal(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(0)
    found = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


@numba.njit(nogil=True, cache=True)
def _moved(
    places: np.ndarray,
    heads: np.ndarray,
    tails: np.ndarray,
    waits: np.ndarray,
    epochs: int,
    a: float,
    b: float,
    seed: int,
) -> np.ndarray:
    """Places after all epochs: an edge draws its ends together every ``waits`` epochs, and its head from others."""
    np.random.seed(seed)
    due = waits.copy()
    for epoch in range(epochs):
        rate = 1.0 - epoch / epochs
        for edge in range(len(heads)):
            if due[edge] > epoch:
                continue
            i = heads[edge]
            _pull(places, i, tails[edge], rate, a, b)
            due[edge] += waits[edge]
            for _ in range(_NONE):
                _push(places, i, np.random.randint(len(places)), rate, a, b)
    return places


@numba.njit(nogil=True, cache=True)
def _pull(places: np.ndarray, i: int, j: int, rate: float, a: float, b: float) -> None:
    x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
    square = x * x + y * y
    if square > 0:
        strength = -2 * a * b * square ** (b - 1) / (a * square**b + 1)
        for axis, way in enumerate((x, y)):
            change = rate * min(max(strength * way, -_CUT), _CUT)
            places[i, axis] += change
            places[j, axis] -= change


@numba.njit(nogil=True, cache=True)
def _push(places: np.ndarray, i: int, j: int, rate: float, a: float, b: float) -> None:
    x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
    square = x * x + y * y
    if square > 0:
        strength = 2 * b / ((0.001 + square) * (a * square**b + 1))
        for axis, way in enumerate((x, y)):
            places[i, axis] += rate * min(max(strength * way, -_CUT), _CUT)
