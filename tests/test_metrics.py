from __future__ import annotations

import numpy as np
import pytest

from bdbench import Role, metrics
from bdbench.record import Performance

P, C, V = Role.POISON, Role.CLEAN, Role.COVER


def test_performance_by_hand() -> None:
    labels = np.array([0, 1, 2, 1])
    clean = np.array([0, 1, 1, 1])
    triggered = np.array([0, 0, 2, 0])
    found = metrics.performance(clean, triggered, labels, np.zeros(4, int))
    assert found.clean_accuracy == 3 / 4
    # The example whose own label is the target is out: of the other three, two obey and one is still right.
    assert found.attack_success_rate == 2 / 3
    assert found.robust_accuracy == 1 / 3


def test_without_an_attack_there_is_no_success_rate() -> None:
    found = metrics.performance(np.array([0, 1]), None, np.array([0, 0]), None)
    assert (found.clean_accuracy, found.attack_success_rate, found.robust_accuracy) == (0.5, None, None)


def test_detection_by_hand() -> None:
    roles = np.array([P, C, P, C, C, V, C, C, C, C])
    scores = np.array([9, 8, 7, 6, 5, 10, 4, 3, 2, 1], float)
    ranking = metrics.rank(scores, np.random.default_rng(0))
    assert ranking.tolist() == [5, 0, 1, 2, 3, 4, 6, 7, 8, 9]
    found = metrics.detection(scores, ranking, roles, budget=0.3)
    # Of the 2 x 7 pairs of poison and clean, one is in the wrong order.
    assert found.auroc == pytest.approx(13 / 14)
    assert found.average_precision == pytest.approx((1 / 1) / 2 + (2 / 3) / 2)
    # Flagged: the cover, a poison and a clean one.
    assert found.tpr_at_budget == 1 / 2
    assert found.fpr_at_budget == pytest.approx(1 / 7)
    assert found.cover_flagged == 1.0
    # 1 % of seven clean examples is less than one: only what comes before the first false alarm counts.
    assert found.tpr_at_1pct_fpr == 1 / 2


def test_tpr_at_one_percent_lets_one_in_a_hundred_pass() -> None:
    roles = np.array([C, P, C, P] + [C] * 98)
    scores = -np.arange(102, dtype=float)
    found = metrics.detection(scores, metrics.rank(scores, np.random.default_rng(0)), roles, 0.1)
    assert (roles == C).sum() == 100
    assert found.tpr_at_1pct_fpr == 1 / 2


def test_ties_count_half_and_are_broken_without_regard_to_order() -> None:
    roles = np.array([P] * 50 + [C] * 50)
    scores = np.zeros(100)
    flagged = [metrics.detection(scores, metrics.rank(scores, np.random.default_rng(s)), roles, 0.5) for s in range(40)]
    assert all(f.auroc == 0.5 for f in flagged)
    assert 0.45 < np.mean([f.tpr_at_budget for f in flagged]) < 0.55


def test_a_clean_set_has_false_alarms_only() -> None:
    scores = np.arange(20, dtype=float)
    found = metrics.detection(scores, metrics.rank(scores, np.random.default_rng(0)), np.zeros(20, np.int8), 0.1)
    assert found.fpr_at_budget == 2 / 20
    assert (found.auroc, found.average_precision, found.tpr_at_budget, found.tpr_at_1pct_fpr) == (None,) * 4
    assert found.cover_flagged is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [((0.9, 1.0), (0.9, 0.0), 1.0), ((0.9, 1.0), (0.8, 1.0), 0.45), ((0.8, 0.5), (0.9, 0.6), 0.5)],
)
def test_defense_effectiveness_rating_by_hand(
    before: tuple[float, float], after: tuple[float, float], expected: float
) -> None:
    rating = metrics.defense_effectiveness_rating(Performance(*before, 0.0), Performance(*after, 0.0))
    assert rating == pytest.approx(expected)


def test_there_is_no_rating_without_an_attack() -> None:
    none = Performance(0.9, None, None)
    assert metrics.defense_effectiveness_rating(none, none) is None
