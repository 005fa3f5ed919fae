from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso, Ridge, lasso_path

from bdbench_datamodel.ensemble import draw_subsets
from bdbench_datamodel.estimators import difference_of_means
from bdbench_datamodel.lasso import PENALTIES, _fit, chosen_penalties, lasso
from bdbench_datamodel.ridge import ridge


def _linear(models: int, n: int, own: float, noise: float, dense: bool = True) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(2)
    planted = rng.normal(size=(n, n)) * (dense or rng.random((n, n)) < 0.1)
    np.fill_diagonal(planted, 0)
    masks = draw_subsets(n, models, 0.3, rng)
    margins = masks @ planted.T + own * masks + noise * rng.normal(size=(models, n))
    return masks, margins, planted


def _hollow(weights: np.ndarray) -> np.ndarray:
    return weights - np.diag(np.diag(weights))


@pytest.mark.parametrize("models", [25, 200])
def test_ridge_equals_scikit_learns_in_both_forms(models: int) -> None:
    masks, margins, _ = _linear(models, 40, 1.0, 0.5)
    held = masks - masks.mean(0)
    penalty = 0.2
    alpha = penalty * np.trace(held @ held.T) / models
    expected = Ridge(alpha=alpha, fit_intercept=True).fit(masks.astype(float), margins).coef_
    assert ridge(masks, margins, penalty).dense() == pytest.approx(_hollow(expected), abs=2e-4)


# Targets of several blocks; fewer networks than weights; fewer patterns than columns, so that some are equal.
@pytest.mark.parametrize(
    ("models", "n", "penalty", "error"),
    [
        (120, 30, 0.1, 0.01),
        (30, 80, 0.3, 0.03),
        (60, 150, 0.3, 0.01),
        (40, 80, 0.05, 0.04),
        (5, 40, 0.3, np.inf),
        (2, 40, 0.3, np.inf),
    ],
)
def test_lasso_equals_scikit_learns(models: int, n: int, penalty: float, error: float) -> None:
    masks, margins, _ = _linear(models, n, 1.0, 0.3)
    found = lasso(masks, margins, penalty).weights
    held, outputs = masks - masks.mean(0), margins - margins.mean(0)
    limits = penalty * np.abs(outputs.T @ held / models).max(1)
    twins = len(np.unique(masks, axis=1).T) < n
    assert twins == (error == np.inf)

    def objective(weights: np.ndarray, target: int) -> float:
        left = outputs[:, target] - held @ weights
        return float(left @ left / (2 * models) + limits[target] * np.abs(weights).sum())

    for target in range(n):
        expected = Lasso(alpha=limits[target], tol=1e-9, max_iter=100000).fit(held, outputs[:, target]).coef_
        assert objective(found[target], target) == pytest.approx(objective(expected, target), rel=1e-5)
        if not twins:
            assert found[target] == pytest.approx(expected, abs=error)


def test_the_penalty_chosen_for_each_target_predicts_networks_best_that_were_not_fitted() -> None:
    masks, margins, _ = _linear(100, 70, 1.0, 2.0, dense=False)
    fitted, others = slice(0, 80), slice(80, 100)
    held = masks - masks[fitted].mean(0)
    outputs = margins - margins[fitted].mean(0)
    chosen = chosen_penalties(masks, margins)
    assert len(set(chosen)) > 5
    for target in range(70):
        limit = np.abs(held[fitted].T @ outputs[fitted, target] / 80).max()
        _, path, _ = lasso_path(
            held[fitted], outputs[fitted, target], alphas=limit * PENALTIES, tol=1e-8, max_iter=10**6
        )
        errors = np.mean((outputs[others, target, None] - held[others] @ path) ** 2, 0)
        rising = np.diff(errors) > 0
        end = next((i + 3 for i in range(len(rising) - 1) if rising[i] and rising[i + 1]), len(errors))
        at = list(PENALTIES).index(chosen[target])
        assert at < end
        assert errors[at] == pytest.approx(errors[:end].min(), rel=1e-4)
    # Each target's own is what its weights are of.
    found = lasso(masks, margins, chosen).weights
    for target in (0, 69):
        assert np.array_equal(found[target], lasso(masks, margins, chosen[target]).weights[target])


def test_a_fit_that_begins_with_the_one_of_a_larger_penalty_goes_on_to_its_own() -> None:
    """One column of square 1 and correlation 1: w = 1 - l, and no column is left that could violate the limit."""
    one, weights = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    for limit in (0.8, 0.6):
        _fit(one, one, np.array([limit], np.float32), weights)
        assert weights[0, 0] == pytest.approx(1 - limit)


def test_equal_columns_share_their_weight() -> None:
    masks, margins, _ = _linear(50, 20, 1.0, 0.3)
    masks[:, 7] = masks[:, 19] = masks[:, 3]
    found = lasso(masks, margins, 0.1).weights
    assert np.abs(found[:, 3]).max() > 0.1
    assert np.array_equal(found[:, 7], found[:, 3]) and np.array_equal(found[:, 19], found[:, 3])


def test_margins_too_large_to_be_squared_still_have_a_penalty() -> None:
    masks, margins, _ = _linear(6, 10, 1.0, 0.3)
    assert set(chosen_penalties(masks, margins * 1e20)) <= set(PENALTIES)


@pytest.mark.parametrize("models", [2, 3, 20])
def test_lasso_gives_a_target_that_never_varies_no_weights(models: int) -> None:
    masks, margins, _ = _linear(models, 10, 1.0, 0.3)
    margins[:, 4] = 7
    found = lasso(masks, margins, chosen_penalties(masks, margins)).weights
    assert np.isfinite(found).all()
    assert not found[4].any()


def test_a_penalty_is_not_chosen_by_one_network() -> None:
    with pytest.raises(ValueError, match="models=1 is not allowed"):
        chosen_penalties(np.ones((1, 4), bool), np.ones((1, 4)))


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_regression_recovers_a_planted_matrix_where_means_are_noisy(own: float) -> None:
    masks, margins, planted = _linear(400, 30, own, 0.3)
    off = ~np.eye(30, dtype=bool)
    # In subsets of a fixed size a constant added to a row changes nothing.
    planted = planted - planted.sum(1, keepdims=True) / 29

    def error(weights: np.ndarray) -> float:
        weights = weights - weights.sum(1, keepdims=True) / 29
        return float(np.sqrt(np.mean((weights - planted)[off] ** 2)))

    # Each weight's deviation is about that of the noise over that of a column: .3 / sqrt(400 * .21) = .033.
    assert error(ridge(masks, margins, 1e-3).dense()) < 0.05
    assert error(difference_of_means(masks, margins)) > 0.2


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_lasso_finds_the_support_of_a_sparse_matrix(own: float) -> None:
    masks, margins, planted = _linear(300, 30, own, 0.1, dense=False)
    found = lasso(masks, margins, 0.05).dense()
    large = np.abs(planted) > 0.3
    assert (np.abs(found[large]) > 0.05).mean() > 0.95
    assert (np.abs(found[planted == 0]) > 0.2).mean() < 0.05


@pytest.mark.parametrize(("estimate", "bad"), [(ridge, 0.0), (lasso, 0.0), (lasso, 1.0)])
def test_an_impossible_penalty_is_refused(estimate: Any, bad: float) -> None:
    with pytest.raises(ValueError, match=f"penalty={bad} is not allowed"):
        estimate(np.ones((3, 4), bool), np.ones((3, 4)), bad)
