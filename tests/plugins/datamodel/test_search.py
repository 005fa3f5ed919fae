from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdbench_datamodel.climb import furthest
from bdbench_datamodel.search import Coarse, Problem, search

RNG = np.random.default_rng(0)


def _random_problem(n: int, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, Problem]:
    weights = np.random.default_rng(seed).normal(size=(n, n)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights, Problem.of(weights, labels)


def test_the_objective_is_the_papers_up_to_a_constant() -> None:
    weights, problem = _random_problem(12, 0)
    for size in (3, 5):
        members = np.sort(RNG.choice(12, size, replace=False))
        v = np.zeros(12)
        v[members] = 1
        h = v / v.sum() - (1 - v) / (1 - v).sum()
        assert v @ weights @ h == pytest.approx(12 / (size * (12 - size)) * problem.objective(members), rel=1e-5)


def test_the_objective_by_hand() -> None:
    weights = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], np.float32)
    # Members 0 and 1: entries inside 1 + 3; two thirds of row sums 3 and 7.
    assert Problem.of(weights).objective(np.array([0, 1])) == pytest.approx(4 - 2 / 3 * 10)


def test_entries_between_labels_are_left_out() -> None:
    weights, _ = _random_problem(6, 1)
    labels = np.array([0, 0, 0, 1, 1, 1])
    kept = weights.copy()
    kept[:3, 3:] = kept[3:, :3] = 0
    masked, by_hand = Problem.of(weights, labels), Problem.of(kept)
    assert np.array_equal(masked.symmetric, by_hand.symmetric)
    assert np.allclose(masked.row_sums, by_hand.row_sums)
    assert weights[0, 4] != 0  # the caller's matrix is not touched


@pytest.mark.parametrize("labelled", [False, True])
def test_a_matrix_is_overwritten_only_if_asked(monkeypatch: pytest.MonkeyPatch, labelled: bool) -> None:
    monkeypatch.setattr("bdbench_datamodel.search._TILE", 7)
    weights, _ = _random_problem(30, 2)
    labels = np.arange(30) % 3 if labelled else None
    kept = weights * (1 if labels is None else labels[:, None] == labels)
    problem = Problem.of(weights, labels)
    assert problem.symmetric == pytest.approx(kept + kept.T)
    assert not np.shares_memory(problem.symmetric, weights)
    spent = weights.copy()
    again = Problem.of(spent, labels, overwrite=True)
    assert again.symmetric is spent
    assert np.array_equal(again.symmetric, problem.symmetric) and np.array_equal(again.row_sums, problem.row_sums)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(4, 14), seed=st.integers(0, 10**6), data=st.data())
def test_the_search_equals_brute_force(n: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n - 1))
    _, problem = _random_problem(n, seed)
    best = max(problem.objective(np.array(c)) for c in combinations(range(n), size))
    found = search(problem, size, starts=60, rng=np.random.default_rng(0))
    assert found.objectives.max() == pytest.approx(best, rel=1e-5, abs=1e-5)
    assert problem.objective(found.best) == pytest.approx(found.objectives.max())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 40), seed=st.integers(0, 10**6), data=st.data())
def test_a_swap_gains_exactly_what_the_formula_says(n: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n - 1))
    _, problem = _random_problem(n, seed)
    order = np.random.default_rng(seed).permutation(n)
    inside, outside = order[:size], order[size:]
    now = problem.objective(inside)
    gains = [problem.objective(np.append(np.delete(inside, i), a)) - now for i in range(size) for a in outside]
    assert problem.best_gain(inside) == pytest.approx(max(gains), abs=1e-3)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("size", [1, 5, 60, 119])
def test_every_result_is_a_certified_local_optimum(monkeypatch: pytest.MonkeyPatch, size: int, coarse: bool) -> None:
    monkeypatch.setattr("bdbench_datamodel.search._CACHED", 0 if coarse else 10_000)
    _, problem = _random_problem(120, 4)
    found = search(problem, size, starts=8, rng=np.random.default_rng(0))
    assert found.members.shape == (8, size)
    for members in found.members:
        assert len(set(members)) == size
        assert problem.best_gain(members) <= 1e-4
    assert problem.best_gain(np.arange(size)) > 1e-4  # and an arbitrary subset is none


def test_a_coarse_start_ends_as_high_and_never_sees_a_small_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    _, problem = _random_problem(300, 7)
    plain = search(problem, 40, 50, np.random.default_rng(0)).objectives
    assert "_coarse" not in vars(problem)
    monkeypatch.setattr("bdbench_datamodel.search._CACHED", 0)
    found = search(problem, 40, 50, np.random.default_rng(0))
    assert not np.array_equal(found.objectives, plain)
    assert found.objectives.mean() > 0.99 * plain.mean()
    assert found.objectives == pytest.approx([problem.objective(m) for m in found.members])


def test_entries_far_beyond_the_coarse_range_are_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdbench_datamodel.search._CACHED", 0)
    weights, _ = _random_problem(60, 8)
    weights[3, 5] = weights[5, 9] = weights[9, 3] = 1e6
    problem = Problem.of(weights)
    assert set(search(problem, 30, 5, np.random.default_rng(0)).best) >= {3, 5, 9}


def test_more_that_may_gain_than_are_looked_at_together_end_in_a_local_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry far below the others in each row: by what is known of the rows all may be swapped for all."""
    monkeypatch.setattr("bdbench_datamodel.search._CACHED", 0)
    weights, _ = _random_problem(700, 9)
    weights[np.arange(700), np.random.default_rng(0).permutation(700)] -= 100
    problem = Problem.of(weights)
    found = search(problem, 300, 3, np.random.default_rng(0))
    assert all(problem.best_gain(members) <= 4e-3 for members in found.members)
    assert found.objectives == pytest.approx([problem.objective(m) for m in found.members])


def test_the_coarse_matrix_is_within_half_a_step_but_for_what_is_cut_off() -> None:
    matrix = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    matrix[0, 1] = 50
    coarse = Coarse.of(matrix)
    error = np.abs(coarse.step * coarse.entries.astype(float) - matrix)
    # 127 steps are eight root mean squares.
    assert coarse.step == pytest.approx(8 * np.sqrt((matrix.astype(float) ** 2).mean()) / 127, rel=1e-5)
    assert coarse.entries[0, 1] == 127
    error[0, 1] = 0
    assert error.max() <= coarse.step / 2 * 1.0001
    assert coarse.rounded(np.array([0.0, 2.6 * coarse.step, -1e30])).tolist() == [0, 3, -(2**30)]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 1500), distinct=st.integers(1, 1000), seed=st.integers(0, 10**6), data=st.data())
def test_what_is_exchanged_is_the_half_furthest_on_the_wrong_side_of_the_kth_gradient(
    n: int, distinct: int, seed: int, data: st.DataObject
) -> None:
    size, cap = data.draw(st.integers(1, n - 1)), data.draw(st.sampled_from([1, 3, n]))
    rng = np.random.default_rng(seed)
    gradient = rng.integers(0, distinct, n).astype(float)
    members = rng.permutation(n)[:size]
    inside = np.isin(np.arange(n), members)
    coming, going = furthest(gradient, members, inside, cap)
    # By brute force: the highest outsiders beside the lowest members, for as long as they are higher.
    highest, lowest = np.sort(gradient[~inside])[::-1], np.sort(gradient[members])
    pairs = sum(high > low for high, low in zip(highest, lowest, strict=False))
    count = min(cap, (pairs + 1) // 2)
    assert not inside[coming].any() and len(set(coming)) == len(set(going)) == count
    assert np.array_equal(np.sort(gradient[coming])[::-1], highest[:count])
    assert np.array_equal(np.sort(gradient[members[going]]), lowest[:count])


def test_a_planted_block_is_found_even_where_row_sums_vary() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(300, 300)).astype(np.float32)
    weights += 3 * rng.normal(size=(300, 1)).astype(np.float32)
    block = rng.choice(300, 30, replace=False)
    weights[np.ix_(block, block)] += 2
    found = search(Problem.of(weights), 30, starts=10, rng=np.random.default_rng(0))
    assert len(set(found.best) & set(block)) >= 29


def test_the_search_is_seeded() -> None:
    _, problem = _random_problem(80, 6)
    first, again = (search(problem, 10, 6, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.members, again.members)


def test_a_matrix_of_zeros_ends_at_once() -> None:
    found = search(Problem.of(np.zeros((10, 10), np.float32)), 3, 2, np.random.default_rng(0))
    assert found.objectives.tolist() == [0, 0]


@pytest.mark.parametrize("size", [0, 10])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} is not allowed: expected 0 < size < 10"):
        search(Problem.of(np.zeros((10, 10), np.float32)), size, 1, np.random.default_rng(0))
