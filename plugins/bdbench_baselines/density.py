"""The hierarchy of density-based clusters, and where in it the largest one stands apart for long."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np


def apart(points: np.ndarray, smallest: int, stability: float, depth: int) -> np.ndarray | None:
    """The parts of points (n, 2) once the largest cluster stands apart: int (n,), 0 it, 1 another, -1 none.

    HDBSCAN's hierarchy (Campello et al. 2013) with clusters of at least ``smallest``: of the first split the larger
    cluster is followed, then the larger of its own, ``depth`` at most, until one lasts over an interval of densities
    (1 / distance) longer than ``stability``. None if none does, or all is one cluster.
    """
    ends, lengths = spanning_tree(points, smallest)
    previous = 0.0
    for generation, (splits, ends_at) in enumerate(_generations(ends, lengths, smallest)):
        if generation == 0:
            previous = ends_at
            continue
        if generation > depth:
            break
        if 1 / max(ends_at, 1e-12) - 1 / max(previous, 1e-12) > stability:
            # It is taken as it is when it ends; one that never splits, as it is when it begins.
            kept = lengths <= ends_at if splits else lengths < previous
            return _parts(ends[kept], len(points), smallest)
        previous = ends_at
    return None


def spanning_tree(points: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The least spanning tree by mutual reachability: int (n - 1, 2) and its lengths, shortest first.

    The largest of a distance and the two points' distances to their ``neighbours``-th, themselves among them.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(neighbours, len(points))
    core = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(points)[0][:, -1]
    ends, lengths = _prim(points, core)
    order = np.argsort(lengths, kind="stable")
    return ends[order], lengths[order]


def _generations(ends: np.ndarray, lengths: np.ndarray, smallest: int) -> Iterator[tuple[bool, float]]:
    """Of all points, of the larger cluster of their split, and so on: whether it splits, at what distance it ends."""
    merges, sizes = _linkage(ends, len(lengths) + 1)
    first = len(lengths) + 1
    node, length = first + len(merges) - 1, np.inf
    while node >= first:
        left, right = merges[node - first]
        length = lengths[node - first]
        small, large = sorted((left, right), key=lambda part: sizes[part])
        if sizes[small] >= smallest:
            yield True, float(length)
        elif sizes[large] < smallest:
            break
        node = large
    yield False, float(length)


def _linkage(ends: np.ndarray, count: int) -> tuple[list[tuple[int, int]], list[int]]:
    """What each edge joins, points 0..n-1 and earlier joins n.., and the sizes of all of these."""
    owner, top, sizes, merges = list(range(count)), list(range(count)), [1] * count, []

    def root(point: int) -> int:
        while owner[point] != point:
            owner[point] = owner[owner[point]]
            point = owner[point]
        return point

    for a, b in ends.tolist():
        i, j = root(a), root(b)
        merges.append((top[i], top[j]))
        sizes.append(sizes[top[i]] + sizes[top[j]])
        owner[i], top[j] = j, len(sizes) - 1
    return merges, sizes


def _parts(ends: np.ndarray, count: int, smallest: int) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (count, count))
    labels = connected_components(graph, directed=False)[1]
    sizes = np.bincount(labels)
    parts = np.where(sizes >= smallest, 1, -1)
    parts[sizes.argmax()] = 0
    return parts[labels]


@numba.njit(nogil=True, cache=True)
def _prim(points: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(points)
    best, source = np.full(count, np.inf), np.zeros(count, np.int64)
    outside = np.ones(count, np.bool_)
    ends, lengths = np.zeros((count - 1, 2), np.int64), np.zeros(count - 1)
    current = 0
    for step in range(count - 1):
        outside[current] = False
        nearest = -1
        for j in range(count):
            if outside[j]:
                x, y = points[j, 0] - points[current, 0], points[j, 1] - points[current, 1]
                reach = max(np.sqrt(x * x + y * y), core[j], core[current])
                if reach < best[j]:
                    best[j], source[j] = reach, current
                if nearest < 0 or best[j] < best[nearest]:
                    nearest = j
        ends[step, 0], ends[step, 1], lengths[step] = source[nearest], nearest, best[nearest]
        current = nearest
    return ends, lengths
