"""The search on factors against the one on the matrix they stand for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdbench_datamodel.ensemble import draw_subsets
from bdbench_datamodel.estimators import difference_over_all, response_covariance
from bdbench_datamodel.influence import Dense, Factors
from bdbench_datamodel.lowrank import LowRank, objective_of
from bdbench_datamodel.search import Problem, search


def _both(n: int, rank: int, seed: int, classes: int = 1) -> tuple[LowRank, Problem]:
    rng = np.random.default_rng(seed)
    factors = Factors(*(rng.normal(size=(n, rank)).astype(np.float32) for _ in range(2)))
    labels = None if classes == 1 else rng.integers(0, classes, n)
    return LowRank.of(factors, labels), Problem.of(factors.dense(), labels)


@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_the_problem_of_the_matrix(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    monkeypatch.setattr("bdbench_datamodel.lowrank._TILE", 7)
    monkeypatch.setattr("bdbench_datamodel.lowrank._WORKING", 4)
    low, dense = _both(50, 6, 0, classes)
    members = np.random.default_rng(1).permutation(50)[:12]
    assert low.row_sums == pytest.approx(dense.row_sums, rel=1e-4, abs=1e-4)
    assert low.extremes == pytest.approx(dense.extremes, rel=1e-5)
    assert low.block(np.arange(50), np.arange(50)) == pytest.approx(dense.symmetric, abs=1e-4)
    assert low.objective(members) == pytest.approx(dense.objective(members), rel=1e-4)
    assert low.best_gain(members) == pytest.approx(dense.best_gain(members), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 12), rank=st.integers(1, 4), seed=st.integers(0, 10**6), data=st.data())
def test_it_equals_brute_force(n: int, rank: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n - 1))
    low, dense = _both(n, rank, seed)
    best = max(dense.objective(np.array(c)) for c in combinations(range(n), size))
    found = search(low, size, starts=60, rng=np.random.default_rng(0))
    assert found.objectives.max() == pytest.approx(best, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("working", [5, 512])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [1, 10, 60, 119])
def test_its_results_are_local_optima_of_the_matrix(
    monkeypatch: pytest.MonkeyPatch, working: int, classes: int, size: int
) -> None:
    """With a working set that holds every candidate, and with one that does not."""
    monkeypatch.setattr("bdbench_datamodel.lowrank._WORKING", working)
    low, dense = _both(120, 8, 4, classes)
    counted: list[int] = []
    found = search(low, size, 8, np.random.default_rng(0), counted.append)
    assert sum(counted) == 8
    for members in found.members:
        assert len(set(members)) == size
        assert dense.best_gain(members) <= 1e-3
    assert found.objectives == pytest.approx([dense.objective(m) for m in found.members], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("labelled", [False, True])
def test_only_factors_of_many_examples_stay_factors(monkeypatch: pytest.MonkeyPatch, labelled: bool) -> None:
    rng = np.random.default_rng(7)
    factors = Factors(*(rng.normal(size=(40, 3)).astype(np.float32) for _ in range(2)))
    labels = rng.integers(0, 2, 40) if labelled else None
    examples, members = np.arange(5, 35), np.array([1, 4, 20, 29])
    small, whole = objective_of(factors, examples, labels), objective_of(Dense(factors.dense()), examples, labels)
    monkeypatch.setattr("bdbench_datamodel.lowrank._FORMED", 29)
    large = objective_of(factors, examples, labels)
    assert [type(o) for o in (small, whole, large)] == [Problem, Problem, LowRank]
    assert type(objective_of(Dense(factors.dense()), examples, labels)) is Problem
    assert small.objective(members) == pytest.approx(whole.objective(members), rel=1e-4)
    assert large.objective(members) == pytest.approx(whole.objective(members), rel=1e-4)


def test_what_all_examples_have_in_common_does_not_drown_the_gradient() -> None:
    """How good a model is moves all margins: a part of every entry that B v and c share, and float32 would round."""
    rng = np.random.default_rng(3)
    masks = draw_subsets(600, 60, 0.2, rng)
    margins = rng.normal(size=(60, 600)) + 30 * rng.normal(size=(60, 1))
    for factors in (response_covariance(masks, margins), difference_over_all(masks, margins)):
        problem = LowRank.of(factors)
        whole = factors.left.astype(np.float64) @ factors.right.astype(np.float64).T
        np.fill_diagonal(whole, 0)
        inside = np.zeros((1, 600), bool)
        inside[0, rng.choice(600, 200, replace=False)] = True
        exact = inside @ (whole + whole.T) - 200 / 600 * whole.sum(1)
        error = problem._gradients(inside) - exact
        assert np.ptp(error) < 1e-6 * np.abs(problem.extremes).max() * 200**0.5


def test_a_gain_that_is_rounding_alone_does_not_end_the_scan_or_last_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdbench_datamodel.lowrank._WORKING", 4)
    low, _ = _both(60, 5, 3)
    tried: list[int] = []

    def nothing(self: LowRank, members: np.ndarray, *rest: object) -> bool:
        tried.append(len(members))
        return len(tried) > 3  # and then claims a gain that is none

    monkeypatch.setattr(LowRank, "_swap", nothing)
    monkeypatch.setattr(LowRank, "_exchange", lambda *_: None)
    search(low, 30, 1, np.random.default_rng(0))
    assert len(tried) == 4


def test_both_searches_find_a_planted_group() -> None:
    rng = np.random.default_rng(5)
    planted = np.zeros(400, np.float32)
    planted[rng.choice(400, 40, replace=False)] = 1
    left, right = (rng.normal(size=(400, 20)).astype(np.float32) for _ in range(2))
    factors = Factors(np.column_stack([left, 6 * planted]), np.column_stack([right, planted]))
    for problem in (LowRank.of(factors), Problem.of(factors.dense())):
        found = search(problem, 40, 10, np.random.default_rng(0))
        assert set(np.flatnonzero(planted)) == set(found.best)
