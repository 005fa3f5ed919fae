from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from bdbench_datamodel import scoring
from bdbench_datamodel.scoring import class_posterior, membership, selection_frequency, suspicion
from bdbench_datamodel.search import Cuts
from bdbench_datamodel.separation import Separation, upper
from bdbench_datamodel.standout import Group


def test_selection_frequency_by_hand() -> None:
    cuts = [
        Cuts(1, np.array([[0], [0], [2], [0]]), np.zeros(4)),
        Cuts(2, np.array([[0, 1], [1, 3]]), np.zeros(2)),
    ]
    expected = [3 / 4 / 1 + 1 / 2 / 2, 2 / 2 / 2, 1 / 4, 1 / 2 / 2]
    assert selection_frequency(cuts, 4) == pytest.approx(expected)


def test_sizes_of_small_classes_count_as_in_one_of_mean_size() -> None:
    small = Cuts(1, np.array([[0], [0]]), np.zeros(2), enlarged=4.0)
    large = Cuts(6, np.array([[1, 2, 3, 4, 5, 6]]), np.zeros(1), enlarged=2 / 3)
    assert selection_frequency([small, large], 8) == pytest.approx([1 / 4] * 7 + [0])


def _integral(x: np.ndarray) -> float:
    """The likelihood of x under normal laws of any mean and deviation, by density 1 / deviation."""

    def likelihood(mean: float, log_deviation: float) -> float:
        return float(stats.norm.pdf(x, mean, np.exp(log_deviation)).prod())

    below, above = (lambda s, side=side: x.mean() + side * 9 * np.exp(s) for side in (-1, 1))
    return float(integrate.dblquad(likelihood, -5, 5, below, above)[0])


def test_class_posterior_is_the_integral_over_the_others_mean_and_deviation() -> None:
    strengths = np.array([2.0, 3.0, 2.5, 6.0, 4.0])
    logs = np.log(strengths)
    likelihoods = np.zeros(5)
    for c in range(5):
        others = np.delete(logs, c)
        if logs[c] > others.mean():
            likelihoods[c] = _integral(others)
    expected = 0.9 * likelihoods / likelihoods.sum() + 0.1 / 5
    assert class_posterior(strengths) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [
        ([3.0], [1.0]),
        ([1.0, 2.0], [0.05, 0.95]),  # nothing to compare with: the stronger
        ([2.0] * 4, [0.25] * 4),
        ([0.0] * 4, [0.25] * 4),
        ([1.0, 1.0, 1.0, 2.0], [0.025, 0.025, 0.025, 0.925]),
        ([0.0] * 4 + [9.0], [0.02] * 4 + [0.92]),  # where nothing was found counts as no evidence
        ([0.0, -1.0, 1.0, 2.0], [0.025, 0.025, 0.025, 0.925]),
        ([5.4818874155076855, 5.481887415507686], [0.5, 0.5]),
        ([1.0, 1.0, 1.0, 1.0 + 1e-9], [0.25] * 4),
    ],
)
def test_class_posterior_at_the_edges(strengths: list[float], expected: list[float]) -> None:
    assert class_posterior(np.array(strengths)) == pytest.approx(expected)


def test_membership_orders_as_the_values_do_and_leaves_equals_equal() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(20, 1, 30), rng.normal(0, 1, 70)])
    found = membership(values, 0.25)
    assert (np.argsort(found) == np.argsort(values)).all()
    # By the upper of two groups as far as these explain the variance, which they do here to .3 * .7 * 20^2 parts in
    # one more, and for the rest by the share of the class that comes before.
    by_size, above = np.exp(-np.arange(100) / 100 / 0.25), np.arange(100) < 30
    apart = 0.3 * 0.7 * 20**2 / (0.3 * 0.7 * 20**2 + 1)
    assert np.sort(found)[::-1] == pytest.approx(apart * above + (1 - apart) * by_size, abs=3e-3)


def test_membership_trusts_the_border_as_far_as_it_explains_the_variance_by_hand() -> None:
    # Two values each: groups at 1 and 0, of equal size, with all of the variance between them.
    assert membership(np.array([1.0, 1.0, 0.0, 0.0]), 0.25) == pytest.approx([1, 1, 0, 0], abs=1e-3)
    # Two groups of five, 3 apart: 1.5^2 of the variance lies between them and .125 within.
    values = np.concatenate([np.linspace(-0.5, 0.5, 5) + side for side in (1.5, -1.5)])
    share = 2.25 / 2.375
    expected = share * (np.arange(10) < 5) + (1 - share) * np.exp(-np.arange(10) / 10 / 0.25)
    assert np.sort(membership(values, 0.25))[::-1] == pytest.approx(expected, abs=2e-3)
    # Where all are alike there is no border.
    tied = membership(np.array([1.0, 1.0, 1.0, 0.0, 0.0]), 0.25)
    assert len(set(tied[:3].tolist())) == len(set(tied[3:].tolist())) == 1
    assert len(set(membership(np.zeros(7), 0.25).tolist())) == 1
    assert membership(np.array([4.0]), 0.25).shape == (1,)


def test_the_border_is_looked_for_from_the_first_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def looked(values: np.ndarray, start: np.ndarray) -> np.ndarray:
        started.append(int(start.sum()))
        assert values[start].min() > values[~start].max()
        return upper(values, start)

    monkeypatch.setattr(scoring, "upper", looked)
    membership(np.random.default_rng(0).normal(size=70), 0.25)
    assert started == [7]


def _groups(strengths: list[float], each: int = 40) -> list[Group]:
    return [
        Group(label, np.arange(each) + each * label, np.arange(each) < 10, strength)
        for label, strength in enumerate(strengths)
    ]


def _values(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([rng.normal(5, 0.1, 10), rng.normal(0, 0.1, 30)])


def test_the_group_that_stands_out_comes_first_and_what_may_be_one_next() -> None:
    rng = np.random.default_rng(0)
    values = [_values(rng) for _ in range(6)]
    scores = suspicion(_groups([1, 1.1, 9, 0.9, 1.2, 1.05]), values, None, 250, 0.25)
    assert set(np.argsort(-scores)[:10]) == set(range(80, 90))
    # Two that stand out alike share what there is before either's class is taken whole.
    scores = suspicion(_groups([1, 1.1, 3, 0.9, 3, 1.05]), values, None, 240, 0.25)
    assert set(np.argsort(-scores)[:20]) == {*range(80, 90), *range(160, 170)}


def test_whoever_nothing_speaks_for_is_as_suspicious_as_before() -> None:
    rng = np.random.default_rng(0)
    values = [_values(rng) for _ in range(6)]
    scores = suspicion(_groups([1, 1.1, 9, 0.9, 1.2, 1.05]), values, None, 250, 0.25)
    # The last ten are of no class that was searched; all classes but one are improbable.
    assert (np.flatnonzero(scores > 0.25 / 6) // 40 == 2).all()
    assert (np.delete(scores, np.arange(80, 120)) == 0.25 / 6).all()
    # With no evidence at all the groups come first.
    scores = suspicion(_groups([1.0] * 6), values, None, 240, 0.25)
    assert set(np.argsort(-scores)[:60]) == {40 * label + i for label in range(6) for i in range(10)}


def _told(values: list[np.ndarray], sharpness: list[float]) -> list[Separation]:
    return [Separation(v, v > v.mean(), s) for v, s in zip(values, sharpness, strict=True)]


def test_of_two_rankings_either_may_be_right() -> None:
    rng = np.random.default_rng(0)
    groups = _groups([1, 1.1, 9, 0.9, 1.2, 1.05])
    values = [_values(rng) for _ in groups]
    # The discriminant names the last ten of each class.
    sharpest = _told([v[::-1].copy() for v in values], [0.5, 0.5, 0.6, 0.5, 0.5, 0.5])
    scores = suspicion(groups, values, sharpest, 240, 0.25)
    assert set(np.argsort(-scores)[:20]) == {*range(80, 90), *range(110, 120)}


def test_of_two_kinds_of_evidence_either_may_be_right() -> None:
    rng = np.random.default_rng(0)
    strengths, sharpness = [1.05, 1.1, 9.0, 0.9, 1.2, 1.0], [0.8, 0.5, 0.52, 0.51, 0.48, 0.5]
    groups, values = _groups(strengths), [_values(rng) for _ in range(6)]
    scores = suspicion(groups, values, _told(values, sharpness), 240, 0.25)
    assert set(np.argsort(-scores)[:20]) == {*range(80, 90), *range(10)}
    # By hand: the mean of the posteriors by strength and by the odds of sharpness, times the membership.
    odds = np.array(sharpness) / (1 - np.array(sharpness))
    probabilities = (class_posterior(np.array(strengths)) + class_posterior(odds)) / 2
    expected = np.concatenate([p * membership(v, 0.25) for p, v in zip(probabilities, values, strict=True)])
    assert scores == pytest.approx(np.maximum(expected, 0.25 / 6))
    # One that is told without any error is no infinity.
    scores = suspicion(groups, values, _told(values, [1.0, 0.5, 0.52, 0.51, 0.48, 0.5]), 240, 0.25)
    assert np.isfinite(scores).all() and set(np.argsort(-scores)[:20]) == {*range(80, 90), *range(10)}


def test_a_class_that_was_told_nothing_of_is_no_evidence_for_the_others() -> None:
    values = [_values(np.random.default_rng(0))] * 6
    by_strength = class_posterior(np.ones(6))[0]  # each as likely

    def probabilities(sharpness: list[float]) -> np.ndarray:
        scores = suspicion(_groups([1.0] * 6), values, _told(values, sharpness), 240, 0.25)
        return scores.reshape(6, 40).max(1) / membership(values[0], 0.25).max()

    # Two of six are told: nothing to compare with.
    assert probabilities([0.0, 0.9, 0.0, 0.5, 0.0, -0.1]) == pytest.approx(np.full(6, by_strength))
    # Four of six are: the two others are as likely as before, and these share the rest.
    found = probabilities([0.0, 0.9, 0.52, 0.5, 0.51, 0.0])
    odds = np.array([0.9 / 0.1, 0.52 / 0.48, 1.0, 0.51 / 0.49])
    expected = (by_strength + np.insert(4 / 6 * class_posterior(odds), [0, 4], 1 / 6)) / 2
    assert found == pytest.approx(np.maximum(expected, 0.25 / 6 / membership(values[0], 0.25).max()))
    assert found.argmax() == 1


def test_no_class_is_preferred_for_its_place() -> None:
    """With nothing to tell classes apart the first one, which an attack often targets, comes no sooner than others."""
    rng = np.random.default_rng(0)
    values, strengths = [_values(rng) for _ in range(6)], [2.0, 2.5, 1.0, 1.1, 0.0, 3.0]
    straight = suspicion(_groups(strengths), values, None, 240, 0.25)
    turned = suspicion(_groups(strengths[::-1]), values[::-1], None, 240, 0.25)
    assert turned.reshape(6, 40)[::-1] == pytest.approx(straight.reshape(6, 40))
    nothing = suspicion(_groups([0.0] * 6), [np.zeros(40)] * 6, None, 240, 0.25)
    assert len(set(nothing.tolist())) == 1
