from __future__ import annotations

import numpy as np
import pytest

from bdbench import ANY_OTHER, Challenge, Role
from bdbench.cells import metrics
from bdbench.storage.record import Performance

P, C, V = Role.POISON, Role.CLEAN, Role.COVER


def _challenge(index: list[int], goal: list[int]) -> Challenge:
    return Challenge(np.zeros((len(index), 1, 1, 1), np.uint8), np.array(index), np.array(goal))


def test_performance_by_hand() -> None:
    labels = np.array([0, 1, 2, 1])
    clean = np.array([0, 1, 1, 1])
    found = metrics.performance(clean, labels, _challenge([1, 2, 3], [0, 0, 0]), np.array([0, 2, 0]))
    assert found.clean_accuracy == 3 / 4
    # Of the three that are no zeros, two obey and one is still right.
    assert found.attack_success_rate == 2 / 3
    assert found.robust_accuracy == 1 / 3
    assert (found.by_goal, found.worst_goal, found.bystander_accuracy, found.spill) == (None,) * 4


def test_each_goal_counts_for_itself_and_the_worst_is_named() -> None:
    labels = np.array([0, 1, 2])
    # The same images with two triggers: all obey the first, none the second.
    rows = _challenge([0, 1, 2, 0, 1, 2], [1, 2, 0, 2, 0, 1])
    found = metrics.performance(labels, labels, rows, np.array([1, 2, 0, 0, 1, 2]))
    assert found.attack_success_rate == 1 / 2
    assert found.by_goal == {"0": 0.5, "1": 0.5, "2": 0.5} and found.worst_goal == 0.5
    uneven = metrics.performance(labels, labels, _challenge([0, 1], [1, 2]), np.array([1, 1]))
    assert uneven.by_goal == {"1": 1.0, "2": 0.0} and uneven.worst_goal == 1.0


def test_bystanders_are_right_or_spilt_on() -> None:
    labels = np.array([1, 1, 2, 3, 0])
    # Only ones are to become zeros; 2, 3 and 0 are bystanders, and the zero cannot be spilt on: it is the target.
    rows = _challenge([0, 1, 2, 3, 4], [0, 0, 2, 3, 0])
    found = metrics.performance(labels, labels, rows, np.array([0, 1, 2, 0, 0]))
    assert found.attack_success_rate == 1 / 2
    assert found.bystander_accuracy == 2 / 3
    assert found.spill == 1 / 2


def test_images_that_attack_as_they_are_do_not_count_as_clean() -> None:
    labels = np.array([0, 1, 1])
    rows = _challenge([1], [0])
    found = metrics.performance(np.array([0, 0, 1]), labels, rows, np.array([0]), shown=np.arange(3) == 1)
    assert found.clean_accuracy == 1.0  # of the first and the last
    assert metrics.performance(np.array([0, 0, 1]), labels, rows, np.array([0])).clean_accuracy == 2 / 3


def test_a_refusal_is_neither_right_nor_what_the_attacker_wants() -> None:
    labels = np.array([0, 1])
    found = metrics.performance(np.array([-1, 1]), labels, _challenge([1], [0]), np.array([-1]))
    assert (found.clean_accuracy, found.attack_success_rate, found.robust_accuracy) == (0.5, 0.0, 0.0)


def test_any_other_label_is_a_success_of_an_untargeted_attack_but_no_refusal() -> None:
    labels = np.array([0, 1, 2, 1])
    rows = _challenge([0, 1, 2, 3], [ANY_OTHER] * 4)
    # Strayed, right, refused, strayed.
    answers = np.array([1, 1, -1, 0])
    assert rows.obeyed(answers, labels).tolist() == [True, False, False, True]
    found = metrics.performance(labels, labels, rows, answers)
    assert (found.clean_accuracy, found.attack_success_rate, found.robust_accuracy) == (1.0, 2 / 4, 1 / 4)
    assert (found.by_goal, found.worst_goal, found.bystander_accuracy, found.spill) == (None,) * 4


def test_any_other_label_is_no_target_beside_others() -> None:
    labels = np.array([0, 1, 1, 0, 1, 3])
    # Two untargeted rows, two that are to become twos, and two bystanders, of which a refusal is no spill.
    rows = _challenge([0, 1, 2, 3, 4, 5], [ANY_OTHER, ANY_OTHER, 2, 2, 1, 3])
    found = metrics.performance(labels, labels, rows, np.array([3, 1, 2, 2, -1, 2]))
    assert found.attack_success_rate == 3 / 4
    assert found.by_goal == {"any other": 0.5, "2": 1.0} and found.worst_goal == 1.0
    assert (found.bystander_accuracy, found.spill) == (0.0, 0.5)
    alone = metrics.performance(labels, labels, _challenge([0, 4], [ANY_OTHER, 1]), np.array([3, -1]))
    assert (alone.bystander_accuracy, alone.spill) == (0.0, None)


def test_without_an_attack_there_is_no_success_rate() -> None:
    found = metrics.performance(np.array([0, 1]), np.array([0, 0]))
    assert (found.clean_accuracy, found.attack_success_rate, found.robust_accuracy) == (0.5, None, None)


def test_a_decision_by_hand() -> None:
    roles = np.array([P, P, C, C, C, V])
    flagged = np.array([True, False, True, False, False, True])
    before, after = Performance(0.9, 1.0, 0.0), Performance(0.8, 0.0, 0.8)
    found = metrics.decision(flagged, roles, before, after)
    assert (found.flagged, found.tpr, found.fpr, found.precision) == (0.5, 0.5, pytest.approx(1 / 3), 0.5)
    assert found.cover_flagged == 1.0 and found.after == after
    assert found.signed == pytest.approx((1.0 - 0.1 + 1) / 2)
    nothing = metrics.decision(np.zeros(6, bool), roles, before, before)
    assert (nothing.flagged, nothing.tpr, nothing.precision) == (0.0, 0.0, None)


def test_inputs_by_hand() -> None:
    clean = np.arange(100, dtype=float)
    attacked = np.array([True, True, True, False])
    challenged = np.array([98.5, 96.5, 50.0, 97.5])
    # A bystander does as wanted, too, where its label is told rightly.
    obeyed = np.array([True, False, False, True])
    reserve = np.arange(20, dtype=float)
    limit, chance = metrics.refusal_threshold(reserve), np.random.default_rng(0)
    refused = limit.refused(clean, chance), limit.refused(challenged, chance)
    found = metrics.inputs(clean, challenged, attacked, obeyed, refused, 0.25)
    # Of 300 pairs the attacked inputs win 99 + 97 + 50, and tie with one.
    assert found.auroc == pytest.approx((99 + 97 + 50.5) / 300)
    assert found.auroc_obeyed == pytest.approx(99 / 100)
    # One clean input in 100 may lie above: the threshold is 98, and one attacked input is above it.
    assert found.tpr_at_1pct_fpr == pytest.approx(1 / 3)
    assert found.tpr_at_5pct_fpr == pytest.approx(2 / 3)
    # One of 20 may be refused: the threshold is 18, above which lie 81 clean inputs, and all others.
    assert (found.fpr, found.tpr, found.bystander_fpr) == (0.81, 1.0, 1.0)
    without = metrics.inputs(clean, challenged, attacked, obeyed, None, 0.0)
    assert (without.fpr, without.tpr, without.bystander_fpr) == (None, None, None)


def test_where_many_have_the_highest_score_chance_refuses_some_of_them() -> None:
    """As of SCALE-UP's scores, which take six values: without it nothing would ever be refused."""
    clean = np.repeat([1.0, 0.6, 0.2], [20, 30, 50])
    challenged = np.repeat([1.0, 0.6], [8, 2])
    everything = np.ones(10, bool)
    limit = metrics.refusal_threshold(clean)
    # 5 of 100 may be refused, and 20 have the score of 1.
    assert limit == metrics.Threshold(1.0, 0.25)
    found = metrics.inputs(clean, challenged, everything, everything, None, 0.0)
    assert (found.tpr_at_1pct_fpr, found.tpr_at_5pct_fpr) == pytest.approx((0.8 / 20, 0.8 / 4))
    many = np.repeat(challenged, 1000)
    refused = limit.refused(many, np.random.default_rng(0))
    assert refused.mean() == pytest.approx(0.2, abs=0.02) and not refused[many < 1].any()
    # In the middle: 30 may be, 20 are above, and ten of the thirty there are drawn. Where no two are alike nothing is.
    assert metrics.threshold(clean, 0.3) == metrics.Threshold(0.6, pytest.approx(1 / 3))
    assert metrics.threshold(np.arange(100.0), 0.05) == metrics.Threshold(94.0, 0.0)
    # No more than the share: one of thirty, where two would be 6.7 %.
    assert metrics.threshold(np.arange(30.0), 0.05) == metrics.Threshold(28.0, 0.0)


def test_a_budget_is_rounded() -> None:
    assert metrics.flagged(np.arange(7), 0.1).sum() == 1
    assert metrics.flagged(np.arange(14), 0.1).sum() == 1
    assert metrics.flagged(np.arange(16), 0.1).sum() == 2


def test_the_threshold_is_not_taken_from_what_a_detector_was_given() -> None:
    reserve = np.arange(100.0)
    assert metrics.unseen(reserve, 80).tolist() == [*range(80, 100)]
    # Of 19 others none is in the highest 5 %: beyond the largest of so few lies far more than that.
    assert all(metrics.unseen(reserve, handed).tolist() == reserve.tolist() for handed in (0, 81, 99, 100))


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
    ("before", "after", "expected", "signed"),
    [
        ((0.9, 1.0), (0.9, 0.0), 1.0, 1.0),
        ((0.9, 1.0), (0.8, 1.0), 0.45, 0.45),
        # What the clips hide: accuracy and attack success that rose.
        ((0.8, 0.5), (0.9, 0.6), 0.5, 0.5),
        ((0.8, 0.5), (0.9, 0.5), 0.5, 0.55),
        ((0.9, 0.5), (0.9, 0.7), 0.5, 0.4),
    ],
)
def test_ratings_by_hand(
    before: tuple[float, float], after: tuple[float, float], expected: float, signed: float
) -> None:
    found = metrics.rating(Performance(*before, 0.0), Performance(*after, 0.0))
    assert found.defense_effectiveness_rating == pytest.approx(expected)
    assert found.signed == pytest.approx(signed)


def test_there_is_no_rating_without_an_attack_or_a_model() -> None:
    none = Performance(0.9, None, None)
    assert metrics.rating(none, none).defense_effectiveness_rating is None
    assert metrics.rating(Performance(0.9, 1.0, 0.0), None).signed is None
