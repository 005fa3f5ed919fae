from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel import compat
from bdbench_datamodel.search import Problem, search


def _as_released(weights: np.ndarray, size: int, start: np.ndarray) -> np.ndarray:
    """The released procedure, step by step on dense arrays, from its description."""
    n = len(weights)
    a = weights.astype(float).copy()
    np.fill_diagonal(a, -weights.sum(1) * size / n)
    current, last = start.copy(), 0.0
    for _ in range(100):
        chosen, vetoed, total, highest, best = current.copy(), set(), 0.0, 0.0, current.copy()
        for _ in range(100):
            scores = a[:, chosen].sum(1) + a[chosen].sum(0) - np.diag(a)
            inside = [i for i in chosen if i not in vetoed]
            outside = [i for i in range(n) if i not in chosen and i not in vetoed]
            if not inside or not outside:
                break
            out, into = min(inside, key=lambda i: scores[i]), max(outside, key=lambda i: scores[i])
            total += scores[into] - scores[out]
            chosen = np.where(chosen == out, into, chosen)
            vetoed |= {out, into}
            if total > highest:
                highest, best = total, chosen.copy()
        current = best
        reached = 2 * (a[np.ix_(current, current)].sum() - np.diag(a)[:size].sum())
        if reached <= last:
            break
        last = reached
    return np.sort(current)


@pytest.mark.parametrize("size", [4, 12])
def test_compat_does_what_was_released(size: int) -> None:
    weights = np.random.default_rng(8).normal(size=(40, 40)).astype(np.float32)
    weights += np.random.default_rng(1).normal(size=(40, 1)).astype(np.float32)  # row sums that vary
    np.fill_diagonal(weights, 0)
    problem = Problem.of(weights)
    found = compat.search(problem, size, 5, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for members in found.members:
        assert members.tolist() == _as_released(weights, size, rng.permutation(40)[:size]).tolist()
    exact = search(problem, size, 5, np.random.default_rng(0))
    assert exact.objectives.mean() > found.objectives.mean()


def test_compat_searches_the_released_sizes() -> None:
    assert compat.sizes(300) == [10, 20, 40, 80, 160]
    assert compat.sizes(50000)[-1] == 5120
