from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from bdbench_datamodel import separation
from bdbench_datamodel.separation import between, separate, standardised, upper
from bdbench_datamodel.spectrum import Spectrum


def test_upper_is_the_mixture_whose_components_share_a_variance() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 80), rng.normal(4, 1, 20)]) * 7 + 3
    found = upper(values, np.arange(100) >= 70)
    mixture = GaussianMixture(2, covariance_type="tied", n_init=5, random_state=1).fit(values[:, None])
    expected = mixture.predict_proba(values[:, None])[:, mixture.means_[:, 0].argmax()]
    assert found == pytest.approx(expected, abs=0.05)
    # Named by height, whoever it was started with.
    assert upper(values, np.arange(100) < 70) == pytest.approx(found, abs=0.05)
    assert upper(np.ones(4), np.array([True, False, False, True])).tolist() == [1, 0, 0, 1]


def test_upper_does_not_depend_on_the_order_of_the_values() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.concatenate([rng.normal(0, 1, 30), rng.normal(2, 1, 10)])
        start, order = values > np.sort(values)[-5], rng.permutation(40)
        assert upper(values[order], start[order]) == pytest.approx(upper(values, start)[order], abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_least_variance_within_two_parts_by_trying_all(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    ranked = np.sort(standardised(values))
    tried = [ranked[:k].var() * k + ranked[k:].var() * (count - k) for k in range(1, count)]
    assert 1 - between(ranked).max() == pytest.approx(min(tried) / count, abs=1e-12)


def _class(shared: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """60 networks, 200 examples of which the first 60 share one direction; all share five others."""
    members = np.arange(200) < 60
    common = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 200))
    return common + shared * np.outer(rng.normal(size=60), members) + rng.normal(size=(60, 200)), members


def test_a_group_that_the_affinity_sees_in_a_blur_is_made_anew() -> None:
    rng = np.random.default_rng(0)
    residuals, members = _class(1.5, rng)
    start = members ^ (rng.random(200) < 0.25)
    contrast = start / start.sum() - ~start / (~start).sum()
    affinity = residuals.T @ (residuals @ contrast)
    found = separate(Spectrum.of(residuals), start, affinity)
    assert (found.members != members).mean() < 0.03 < (start != members).mean()
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(members, found.fits) > 0.99 > 0.96 > roc_auc_score(members, affinity)
    assert found.sharpness > 0.7


def test_the_first_group_is_what_the_affinity_tells_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "_ROUNDS", 1)
    rng = np.random.default_rng(0)
    told = np.arange(100) % 3 == 0
    start = told & (np.arange(100) < 50)
    found = separate(Spectrum.of(rng.normal(size=(30, 100))), start, 5.0 * told + rng.normal(size=100))
    assert (found.members == told).mean() > 0.97


def test_what_shares_nothing_is_not_sharp() -> None:
    rng = np.random.default_rng(1)
    residuals = rng.normal(size=(60, 200))
    start = np.arange(200) < 60
    found = separate(Spectrum.of(residuals), start, rng.normal(size=200))
    sharp, _ = _class(3, rng)
    assert found.sharpness < 0.5 < separate(Spectrum.of(sharp), start, start + 0.1 * rng.normal(size=200)).sharpness


@pytest.mark.parametrize("residuals", [np.zeros((5, 6)), np.ones((1, 6)), np.eye(6)])
def test_degenerate_classes_end_with_finite_numbers(residuals: np.ndarray) -> None:
    start = np.array([True, True, False, False, False, False])
    found = separate(Spectrum.of(residuals), start, np.zeros(6))
    assert np.isfinite(found.fits).all() and np.isfinite(found.sharpness)
    assert found.members.tolist() == start.tolist()


def test_standardised_by_hand() -> None:
    assert standardised(np.array([1.0, 3.0])).tolist() == [-1, 1]
    assert standardised(np.ones(3)).tolist() == [0, 0, 0]


def test_sharpness_is_the_share_of_the_variance_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four members among eight the variance is 1/4, as in ``between``: no sample's, of which it would be 2/7."""
    members = np.arange(8) < 4
    told: Any = SimpleNamespace(left_one_out=lambda group: (members * 10.0, 0.05))
    monkeypatch.setattr(separation, "upper", lambda values, start: members.astype(float))
    assert separate(told, members, members * 1.0).sharpness == pytest.approx(1 - 0.05 / 0.25)
