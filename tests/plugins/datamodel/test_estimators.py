from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel.ensemble import draw_subsets
from bdbench_datamodel.estimators import difference_of_means, difference_over_all, response_covariance


def _linear(models: int, n: int, own: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subsets, and margins of a planted linear datamodel W with an extra effect of one's own inclusion."""
    rng = np.random.default_rng(2)
    planted = rng.normal(size=(n, n)) / 4
    np.fill_diagonal(planted, 0)
    masks = draw_subsets(n, models, 0.3, rng)
    outputs = masks @ planted.T + own * masks + noise * rng.normal(size=(models, n))
    return masks, outputs, planted


def test_difference_of_means_by_hand() -> None:
    masks = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], bool)
    outputs = np.array([[1.0, 5.0, 0.0], [2.0, 6.0, 0.0], [4.0, 7.0, 0.0], [8.0, 9.0, 0.0]])
    everyone = difference_over_all(masks, outputs).dense()
    assert everyone[0, 1] == pytest.approx((2 + 4) / 2 - (1 + 8) / 2)
    outside = difference_of_means(masks, outputs)
    # Target 0 is outside models 1 and 3: of them, only model 1 holds example 1.
    assert outside[0, 1] == pytest.approx(2 - 8)
    # Both hold example 2: nothing to compare with.
    assert outside[0, 2] == 0
    assert np.all(np.diag(outside) == 0)


def test_an_example_that_all_models_hold_or_none_has_no_effect() -> None:
    masks = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], bool)
    outputs = np.arange(9.0).reshape(3, 3)
    for found in (difference_of_means(masks, outputs), difference_over_all(masks, outputs).dense()):
        assert (found[:, :2] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_difference_of_means_recovers_a_planted_matrix_at_the_expected_rate(own: float) -> None:
    n, noise = 30, 0.5
    off = ~np.eye(n, dtype=bool)
    for models in (1000, 16000):
        masks, outputs, planted = _linear(models, n, own, noise)
        # In a subset of fixed size j stands in for one of the n - 2 others.
        expected = planted - (planted.sum(1, keepdims=True) - planted) / (n - 2)
        error = (difference_of_means(masks, outputs) - expected)[off]
        # Over models without i, the variance of one margin is that of the noise and of the other columns;
        # .3 of them hold j.
        variance = noise**2 + 0.3 * 0.7 * n / 16
        theory = np.sqrt(variance / (models * 0.7 * 0.3 * 0.7))
        assert np.sqrt(np.mean(error**2)) == pytest.approx(theory, rel=0.15)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, outputs, _ = _linear(200, 30, 1.0, 0.5)
    whole = difference_of_means(masks, outputs)
    monkeypatch.setattr("bdbench_datamodel.estimators._ROWS", 7)
    assert np.allclose(difference_of_means(masks, outputs), whole, atol=1e-6)


def test_covariance_by_hand() -> None:
    masks = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    # Margin 0 is 10 higher where 0 is held; what is left is +-1. Margin 1 likewise, with +-2.
    outputs = np.array([[11.0, 2.0], [9.0, -2.0], [1.0, 32.0], [-1.0, 28.0]])
    assert response_covariance(masks, outputs).dense().tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_covariance_approaches_the_product_of_the_planted_matrix(own: float) -> None:
    masks, outputs, planted = _linear(40000, 20, own, 0.1)
    centring = np.eye(20) - 1 / 20  # subsets of fixed size: the columns' common part is not seen
    expected = 0.3 * 0.7 * 20 / 19 * planted @ centring @ planted.T
    off = ~np.eye(20, dtype=bool)
    found = response_covariance(masks, outputs).dense()
    # Freeing a margin of its own inclusion takes a share of order 1/n of the others' effect with it.
    assert np.corrcoef(found[off], expected[off])[0, 1] > 0.98
    assert np.polyfit(expected[off], found[off], 1)[0] == pytest.approx(1, abs=0.1)
