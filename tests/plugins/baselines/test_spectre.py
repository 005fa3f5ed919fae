from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from bdbench_baselines import spectre
from bdbench_baselines.robust import covariance, moments, whitener
from bdbench_baselines.spectre import Spectre, examined, que
from tests.plugins.baselines.test_baselines import tools, view

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 300)
POISONS = np.arange(600, 625)


def features() -> np.ndarray:
    """Three labels whose variance is in other directions than what sets 25 poisons of the last one apart."""
    made = RNG.normal(size=(900, 10)) * np.linspace(8, 0.2, 10) + 3
    made[POISONS, -1] += 2.0
    return made


def test_que_scores_equal_the_matrix_exponential_of_the_paper() -> None:
    points = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6))
    mean, spread = points[:150].mean(0), covariance(points[:150])
    white = np.linalg.solve(np.linalg.cholesky(spread), (points - mean).T).T
    second = white.T @ white / 200
    weights = expm(4 * (second - np.eye(6)) / (np.linalg.norm(second, 2) - 1))
    expected = np.einsum("ij,jk,ik->i", white, weights, white) / np.trace(weights)
    assert que(points, mean, spread, 4.0) == pytest.approx(expected)
    # Without weights it is the squared Mahalanobis distance over the dimension.
    assert que(points, mean, spread, 0.0) == pytest.approx((white**2).sum(1) / 6)


def test_whitening() -> None:
    spread = covariance(RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 4)))
    root = whitener(spread)
    assert root @ spread @ root == pytest.approx(np.eye(4), abs=1e-9)
    assert np.isfinite(whitener(np.zeros((3, 3)))).all()


@pytest.mark.parametrize("k", [2, 6, 20])
def test_the_moments_are_those_of_the_clean_points(k: int) -> None:
    clean = RNG.normal(size=(2000, k)) @ (np.eye(k) + 0.3 * RNG.normal(size=(k, k)))
    far = clean[:150] + 40 * RNG.normal(size=k)
    every = np.concatenate([clean, far])
    mean, spread = moments(every, 0.1, 400)
    for found, true, naive in ((mean, clean.mean(0), every.mean(0)), (spread, covariance(clean), covariance(every))):
        assert np.linalg.norm(found - true) < 0.1 * np.linalg.norm(naive - true)


def test_nothing_is_left_out_of_a_normal_law() -> None:
    points = RNG.normal(size=(3000, 5))
    mean, spread = moments(points, 0.1, 600)
    assert mean == pytest.approx(points.mean(0)) and spread == pytest.approx(covariance(points))


def test_it_finds_the_label_and_the_poisons_where_little_varies() -> None:
    given, made = tools(features()), features()
    given.victim.features = lambda images: made
    scores = Spectre().score(view(LABELS), given)
    assert set(np.argsort(-scores)[:20]) <= set(POISONS)
    # 1.5 times a tenth of the label, and no other label.
    assert given.flagged.sum() == 45 and given.flagged[POISONS].all() and not given.flagged[:600].any()


def test_told_the_rate_it_flags_by_it() -> None:
    for rate, count in ((25 / 900, 38), (0.0, 0), (0.9, 150)):
        given = tools(features(), poison_rate=rate)
        Spectre(oracle=True).score(view(LABELS), given)
        assert given.flagged.sum() == count


def test_permuted_examples_have_permuted_scores() -> None:
    made, order = features(), RNG.permutation(900)
    scores = Spectre().score(view(LABELS), tools(made))
    assert Spectre().score(view(LABELS[order]), tools(made[order])) == pytest.approx(scores[order], rel=1e-6)


def test_where_nothing_can_be_told() -> None:
    for alike in (np.ones((40, 7)), RNG.normal(size=(1, 7))):
        found = examined(alike, 4, 100, 4.0)
        assert not found.scores.any() and found.strength == 0
    given = tools(np.ones((5, 3)))
    assert not Spectre().score(view(np.array([0, 0, 2, 2, 3])), given).any() and not given.flagged.any()


def test_dimensions_are_tried_evenly_by_their_roots_and_twice_the_poisons_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    moments_ = spectre.moments

    def watched(points: np.ndarray, share: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append((points.shape[1], limit))
        return moments_(points, share, limit)

    monkeypatch.setattr(spectre, "moments", watched)
    monkeypatch.setattr(spectre, "_EACH", 1)
    examined(np.random.default_rng(0).normal(size=(200, 110)), 30, 100, 4.0)
    assert [k for k, _ in seen] == [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]
    assert {limit for _, limit in seen} == {60}
