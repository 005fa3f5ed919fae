"""The hierarchy of density-based clusters, and where in it the largest one stands apart for long."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def apart(points: np.ndarray, smallest: int, stability: float, depth: int) -> np.ndarray | None:
    """The parts of points (n, 2) once the largest cluster stands apart: int (n,), 0 it, 1 another, -1 none.

    HDBSCAN's hierarchy (Campello et al. 2013) with clusters of at least ``smallest``: of the first split the larger
    cluster is followed, then the larger of its own, ``depth`` at most, until one lasts over an interval of densities
    (1 / distance) longer than ``stability``. None if none does, or all is one cluster.
    """
    if len(points) <= smallest:
        return None
    tree = _linkage(points, smallest)
    previous = 0.0
    for generation, (splits, ends_at) in enumerate(_generations(tree, smallest)):
        if generation == 0:
            previous = ends_at
            continue
        if generation > depth:
            break
        if 1 / max(ends_at, 1e-12) - 1 / max(previous, 1e-12) > stability:
            # It is taken as it is when it ends; one that never splits, as it is when it begins.
            return _parts(tree, ends_at if splits else np.nextafter(previous, 0), smallest)
        previous = ends_at
    return None


def _linkage(points: np.ndarray, smallest: int) -> np.ndarray:
    """Single linkage by mutual reachability, as scipy has it: of each merger the two parts, the distance, the size."""
    from hdbscan import HDBSCAN

    found = HDBSCAN(min_cluster_size=smallest, approx_min_span_tree=False).fit(points)
    return np.asarray(found.single_linkage_tree_.to_numpy())


def _generations(tree: np.ndarray, smallest: int) -> Iterator[tuple[bool, float]]:
    """Of all points, of the larger cluster of their split, and so on: whether it splits, at what distance it ends."""
    count = len(tree) + 1
    node, length = count + len(tree) - 1, np.inf
    while node >= count:
        parts, length = tree[node - count, :2].astype(int), tree[node - count, 2]
        small, large = sorted(parts, key=lambda part: tree[part - count, 3] if part >= count else 1)
        sizes = [tree[part - count, 3] if part >= count else 1 for part in (small, large)]
        if sizes[0] >= smallest:
            yield True, float(length)
        elif sizes[1] < smallest:
            break
        node = large
    yield False, float(length)


def _parts(tree: np.ndarray, distance: float, smallest: int) -> np.ndarray:
    from scipy.cluster.hierarchy import fcluster

    labels = fcluster(tree, distance, "distance")
    sizes = np.bincount(labels)
    parts = np.where(sizes >= smallest, 1, -1)
    parts[sizes.argmax()] = 0
    return parts[labels]
