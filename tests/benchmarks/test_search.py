"""The compiled search beside the same climb in numpy, on one matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bdbench_datamodel.search import Problem, search

N, SIZE, STARTS = 1500, 60, 8


def _problem() -> Problem:
    return Problem.of(np.random.default_rng(0).normal(size=(N, N)).astype(np.float32))


def compiled(problem: Problem) -> float:
    return float(search(problem, SIZE, STARTS, np.random.default_rng(0)).objectives.mean())


def in_numpy(problem: Problem) -> float:
    rng, offsets = np.random.default_rng(0), SIZE / N * problem.row_sums
    objectives = []
    for _ in range(STARTS):
        members = rng.permutation(N)[:SIZE]
        inside = np.zeros(N, bool)
        inside[members] = True
        gradient = problem.symmetric[members].sum(0, dtype=np.float64) - offsets
        changed = True
        while changed:
            changed = False
            for i, r in enumerate(members):
                gains = np.where(inside, -np.inf, gradient - gradient[r] - problem.symmetric[r])
                best = int(gains.argmax())
                if gains[best] > 1e-4:
                    members[i] = best
                    inside[r], inside[best] = False, True
                    gradient += problem.symmetric[best] - problem.symmetric[r]
                    changed = True
        objectives.append(problem.objective(members))
    return float(np.mean(objectives))


def test_both_reach_the_same_objective() -> None:
    problem = _problem()
    assert compiled(problem) == pytest.approx(in_numpy(problem), rel=1e-3)


@pytest.mark.benchmark(group=f"search, n = {N}, k = {SIZE}, {STARTS} starts")
@pytest.mark.parametrize("function", [compiled, in_numpy])
def test_search(benchmark: Any, function: Callable[[Problem], float]) -> None:
    benchmark.pedantic(function, args=(_problem(),), rounds=3, warmup_rounds=1)
