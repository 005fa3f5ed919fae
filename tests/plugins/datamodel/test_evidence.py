"""What speaks for a class being poisoned, which of its groups is blamed, and who is flagged: by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bdbench_datamodel import evidence
from bdbench_datamodel.evidence import Known, judge
from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect
from tests.plugins.datamodel.suspected import effect, group


def transferring(classes: list[list[Suspects]], shares: dict[int, float] | None = None) -> list[list[Transfer]]:
    """What every group turns strangers of one other class by: by label, and next to nothing where none is given."""
    return [
        [Transfer(np.array([np.nan, (shares or {}).get(groups[0].label, 0.01)]), 0.0)] * len(groups)
        for groups in classes
    ]


def plain(examples: int) -> np.ndarray:
    """Images in which there is nothing to see, uint8 (n, 2, 2, 1)."""
    return np.full((examples, 2, 2, 1), 100, np.uint8)


def judged(
    classes: list[list[Suspects]],
    found: list[list[Effect]],
    accuracy: float = 0.95,
    levels: tuple[float, ...] = (),
    shares: dict[int, float] | None = None,
) -> evidence.Judgement:
    """Of networks that are right on every example as often, of classes at given levels (none: all alike)."""
    examples, labels = sum(len(groups[0].examples) for groups in classes), max(len(classes), 2)
    known = Known(np.full(examples, accuracy), np.array(levels) if levels else np.full(labels, 3.0))
    return judge(classes, found, transferring(classes, shares), known, np.full(examples, 0.02), plain(examples))


def judged_where(right: np.ndarray, classes: list[list[Suspects]], found: list[list[Effect]]) -> evidence.Judgement:
    """Of two classes, and networks that are right on each example so often, float64 (n,)."""
    known = Known(right, np.full(2, 3.0))
    return judge(classes, found, transferring(classes), known, np.full(len(right), 0.02), plain(len(right)))


def turning(share: float, smaller: int) -> float:
    """By hand: what is added to the evidence of a group, of so many examples in the smaller part of its class."""
    return 3.35 * (float(np.log(share + 0.02)) + 0.35 * float(np.log(smaller)))


def natural(label: int) -> tuple[list[Suspects], list[Effect]]:
    own = group(label, 10)
    return [own], [effect(own, 4.0, 1.0)]


def planted(label: int) -> tuple[list[Suspects], list[Effect]]:
    own = group(label, 8, sharpness=0.95)
    return [own], [effect(own, 12.0, -9.0)]


def test_one_poisoned_class_among_natural_ones_is_named_and_its_members_flagged() -> None:
    classes, found = map(list, zip(*[natural(c) for c in range(9)], planted(9), strict=True))
    result = judged(classes, found, shares={9: 0.4})
    assert sorted(np.flatnonzero(result.flagged)) == sorted(classes[9][0].group)
    assert result.p_value is not None and result.p_value < 0.01
    assert (
        result.scores[classes[9][0].group].min()
        > result.scores[np.setdiff1d(np.arange(400), classes[9][0].group)].max()
    )


def test_nothing_is_said_of_natural_classes() -> None:
    classes, found = map(list, zip(*[natural(c) for c in range(10)], strict=True))
    result = judged(classes, found)
    assert not result.flagged.any()
    assert result.p_value is not None and result.p_value > 0.2


@pytest.mark.parametrize("classes", [2, 10])
def test_there_need_be_no_clean_class_to_compare_with(classes: int) -> None:
    groups, found = map(list, zip(*[planted(c) for c in range(classes)], strict=True))
    result = judged(groups, found, shares=dict.fromkeys(range(classes), 0.4))
    assert sorted(np.flatnonzero(result.flagged)) == sorted(np.concatenate([own[0].group for own in groups]))


def test_a_strong_group_near_its_label_is_natural_where_networks_know_the_classes() -> None:
    own = group(0, 8, sharpness=0.95)
    near = [[own]], [[effect(own, 9.0, -4.0)]]
    reach = group(1, 10)
    others = [[reach]], [[effect(reach, 4.0, 1.5)]]
    sure = judged(near[0] + others[0], near[1] + others[1], accuracy=0.97).evidence[0]
    unsure = judged(near[0] + others[0], near[1] + others[1], accuracy=0.5).evidence[0]
    assert sure < unsure


def test_the_evidence_by_hand() -> None:
    own, other = group(0, 8, sharpness=0.9), group(1, 10, sharpness=0.5)
    found = [[effect(own, 12.0, -9.0)], [effect(other, 3.0, 2.0)]]
    result = judged([[own], [other]], found, accuracy=1.0)
    # By hand: the usual is the lower quartile of the two, and .15; the reach is the median of 3 and 5.
    strong = np.log(12) + np.log(9), np.log(3.0)
    usual = strong[1] + (strong[0] - strong[1]) / 4 + 0.15
    deep = 9 / 4
    assert result.evidence[0] == pytest.approx(0.66 * (strong[0] - usual) + 0.43 * deep + turning(0.01, 8) + 2.26)
    assert result.evidence[1] == pytest.approx(0.66 * (strong[1] - usual) + turning(0.01, 10) + 2.26)


def test_what_turns_strangers_counts_by_its_logarithm_and_more_where_the_smaller_part_is_large() -> None:
    few, half = group(0, 5), group(0, 20)
    most = Suspects(0, half.examples, np.arange(40) < 35, half.fits, half.sharpness, "sharpest")
    other = group(1, 10)
    found = []
    for own, share in ((few, 0.0), (few, 0.3), (half, 0.3), (most, 0.3)):
        result = judged([[own], [other]], [[effect(own, 4.0, 1.0)], [effect(other, 4.0, 1.0)]], shares={0: share})
        found.append(result.evidence[0])
    assert found[1] - found[0] == pytest.approx(3.35 * np.log(0.32 / 0.02))
    assert found[2] - found[1] == pytest.approx(3.35 * 0.35 * np.log(20 / 5))
    # The difference of 35 and 5 is as much by chance as that of 5 and 35.
    assert found[3] == pytest.approx(found[1])


def test_strangers_count_by_the_classes_that_members_are_taken_for() -> None:
    """By hand: of two other classes the trigger turns the first, which members are taken for always, or never."""
    own, others = group(0, 8), [group(label, 10) for label in (1, 2)]
    still = Transfer(np.array([0.0, 0.0, 0.0]), 0.0)
    shared = [[Transfer(np.array([np.nan, 0.4, 0.0]), 0.0)], [still], [still]]
    known = Known(np.ones(120), np.full(3, 3.0))
    found = []
    for taken in ((0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (0.0, 0.0, 0.0)):
        effects_of = [
            [replace(effect(own, 4.0, 1.0), taken=np.array(taken))],
            *([replace(effect(o, 4.0, 1.0), taken=np.zeros(3))] for o in others),
        ]
        found.append(evidence.evidence([[own], *([o] for o in others)], effects_of, shared, known)[0][0])
    assert found[0] - found[1] == pytest.approx(3.35 * np.log(0.42 / 0.02))
    assert found[2] - found[1] == pytest.approx(3.35 * np.log((0.4 / np.sqrt(2) + 0.02) / 0.02))


def test_depth_is_in_margins_of_the_classes_that_are_known_best() -> None:
    own, other = group(0, 8, sharpness=0.9), group(1, 10, sharpness=0.5)
    found = [[effect(own, 16.0, -14.0)], [effect(other, 3.0, 2.0)]]
    alike, unlike = (judged([[own], [other]], found, 1.0, levels).evidence for levels in ((2.0, 2.0), (2.0, -10.0)))
    # By hand: the reach is 3.5, and where the classes' levels are 12 apart their upper quartile is 3 above the median.
    assert alike[0] - unlike[0] == pytest.approx(0.43 * (14 / 3.5 - 14 / 6.5))
    assert alike[1] == unlike[1]


def test_depth_counts_little_in_a_class_that_networks_do_not_know() -> None:
    own, other = group(0, 8, sharpness=0.9), group(1, 10, sharpness=0.5)
    found = [[effect(own, 12.0, -9.0)], [effect(other, 3.0, 2.0)]]
    right = np.ones(80)
    right[8:40] = 0.5  # its class-mates are known by chance
    result = judged_where(right, [[own], [other]], found)
    strong = np.log(12) + np.log(9), np.log(3.0)
    usual = strong[1] + (strong[0] - strong[1]) / 4 + 0.15
    assert result.evidence[0] == pytest.approx(0.66 * (strong[0] - usual) + turning(0.01, 8) + 2.26)
    # Known half way from chance: by hand, the cube of 1/2 of a depth of 9/4.
    right[8:40] = 0.75
    result = judged_where(right, [[own], [other]], found)
    deep = 9 / 4 / 8
    natural = 1 - (1 - deep / 1.3) / 8
    assert result.evidence[0] == pytest.approx(
        0.66 * (strong[0] - usual) * natural + 0.43 * deep + turning(0.01, 8) + 2.26
    )


def test_what_is_known_by_hand() -> None:
    masks = np.array([[True, False, False], [False, False, True]])
    margins = np.array([[9.0, 1.0, -2.0], [-1.0, 3.0, 9.0]])
    found = Known.of(margins, masks, np.array([0, 0, 1]), 3)
    assert found.right.tolist() == [0, 1, 0]
    assert found.levels.tolist() == [0.5, -2.0, 0.0]
    # By hand: of four classes, half right is a third of the way from chance to certainty.
    assert Known(np.full(80, 0.5), np.zeros(4)).kappa(group(0, 8)) == pytest.approx(1 / 3)
    right = np.ones(80)
    right[:8] = 0  # its own members count among all, but not among its class-mates: they may be poisons
    assert Known(right, np.zeros(2)).kappa(group(0, 8)) == pytest.approx(0.8)
    right[8:24] = 0
    assert Known(right, np.zeros(2)).kappa(group(0, 8)) == 0


def test_a_set_of_which_large_classes_alone_are_known_varies_as_one_that_is_hardly_known() -> None:
    large, small = (
        group(0, 30, size=90),
        Suspects(1, np.arange(90, 100), np.arange(10) < 4, np.zeros(10), 0.5, "handful"),
    )
    known = Known(np.r_[np.ones(90), np.full(10, 0.5)], np.zeros(2))
    # By hand: .95 of all are right, and .75 of the mean class; beyond chance .9 and .5.
    assert known.knowing() == pytest.approx(0.9**3)
    assert known.evenly([[large], [small]]) == pytest.approx(0.5**3)
    # An alarm is asked as much as the mean class is known for.
    strong = group(0, 30, size=90, sharpness=0.9)
    found = [[effect(strong, 12.0, -9.0)], [effect(small, 1.0, 1.0)]]
    classes = [[strong], [small]]
    result = judge(classes, found, transferring(classes), known, np.zeros(100), plain(100))
    law = evidence._Natural(0.6 + 0.3 * (1 - 0.125), 2)
    assert result.p_value == pytest.approx(min(1, 2 * law.exceeds(np.array([result.evidence[0]]))[0]))
    turns = judge(classes, found, transferring(classes, {0: 0.4}), known, np.zeros(100), plain(100))
    assert turns.evidence[0] > result.evidence[0] + 5 and turns.p_value is not None and turns.p_value < 0.5
    assert turns.p_value == pytest.approx(2 * law.exceeds(np.array([turns.evidence[0]]))[0])


def test_where_no_class_is_suspicious_the_comparison_of_classes_is_what_ranks() -> None:
    own = [natural(label) for label in range(10)]
    classes, found = [groups for groups, _ in own], [effects_ for _, effects_ in own]
    known = Known(np.full(400, 0.95), np.full(10, 3.0))
    result = judge(classes, found, transferring(classes), known, np.full(400, 0.5), plain(400))
    law = evidence._Natural.of(known.evenly(classes), 10)
    asked = law.exceeded(0.05 / 10)
    poisoned = [1 / (1 + np.exp(-2 * (result.evidence[label] - asked))) for label in range(10)]
    expected = 0.5 * np.prod([1 - probability for probability in poisoned])
    assert 0.1 < expected < 0.5 and result.scores.min() == pytest.approx(expected)


def test_what_is_usual_of_groups_and_of_their_rests_is_what_sharp_ones_are() -> None:
    """By hand: the lower quartile of 0, 1, 2, 3 and 4 is 1, above which it lies by .15 or .3; handfuls by their own."""
    classes = [[group(label, 8), group(label, 8, kind="strongest")] for label in range(5)]
    values = [np.array([float(label), 100.0]) for label in range(5)]
    assert evidence._usual(classes, values) == pytest.approx(
        {"sharpest": 1.15, "rest": 1.3, "strongest": 1.15, "handful": 1.4}
    )


def test_beside_classes_that_are_named_less_is_asked_of_the_next() -> None:
    """As Benjamini and Hochberg's procedure does, where several are attacked: all-to-all."""
    weak = group(0, 8, sharpness=0.8)
    some = [[weak]], [[effect(weak, 4.0, -3.0)]]
    strong = [planted(c) for c in range(1, 5)]
    clean = [natural(c) for c in range(1, 5)]
    alone = judged(some[0] + [c[0] for c in clean], some[1] + [c[1] for c in clean], shares={0: 0.28})
    shares = {0: 0.28, **dict.fromkeys(range(1, 5), 0.4)}
    among = judged(some[0] + [s[0] for s in strong], some[1] + [s[1] for s in strong], shares=shares)
    assert not alone.flagged.any() and among.flagged[40:].any() and not among.flagged[:40].any()
    # By hand: as likely as not is what one of five exceeds once in a hundred, and where four are named once in twenty.
    law = evidence._Natural.of(Known(np.full(200, 0.95), np.full(5, 3.0)).knowing(), 5)
    for found, probability in ((alone, 0.01), (among, 0.05)):
        expected = 1 / (1 + np.exp(-2 * (found.evidence[0] - law.exceeded(probability))))
        assert found.scores[weak.group].max() == pytest.approx(max(expected, 0.23 / 5), abs=0.01)


def law_where(accuracy: float, classes: int) -> evidence._Natural:
    return evidence._Natural.of(Known(np.full(20, accuracy), np.zeros(classes)).knowing(), classes)


def test_the_law_of_the_largest_of_ten_natural_classes() -> None:
    # By hand: Gumbel's law at .1, of which 5 % lie above .1 + 2.97 times its scale: .6 where all is known, .9 where
    # nothing is.
    for accuracy, limit in ((1.0, 1.882), (0.1, 2.773)):
        law = law_where(accuracy, 10)
        assert 1 - (1 - law.exceeds(np.array([limit]))[0]) ** 10 == pytest.approx(0.05, abs=0.001)
        assert law.exceeded(0.005) == pytest.approx(limit, abs=0.03)
    # By hand: kappa is (.82 - .1) / .9 = .8, its cube .512, and the scale .6 + .3 * .488.
    assert law_where(0.82, 10).scale == pytest.approx(0.7464)


def test_a_hundred_classes_have_ten_times_as_many_chances_and_two_as_many_together() -> None:
    of_two, of_ten, of_many = (law_where(1.0, classes) for classes in (2, 10, 100))
    at = np.array([2.0])
    assert of_many.exceeds(at) == of_ten.exceeds(at)
    assert 1 - of_two.exceeds(at)[0] == pytest.approx((1 - of_ten.exceeds(at)[0]) ** 5)
    assert all(
        law.exceeds(np.array([law.exceeded(0.03)]))[0] == pytest.approx(0.03) for law in (of_two, of_ten, of_many)
    )


def test_benjamini_and_hochberg_by_hand() -> None:
    assert evidence._named(np.array([0.024, 0.9, 0.012, 0.03])).tolist() == [True, False, True, True]
    assert not evidence._named(np.array([0.03, 0.9, 0.04, 0.2])).any()


def test_simes_by_hand_and_together_with_who_is_named() -> None:
    # By hand: 4 * .012 / 1, 4 * .024 / 2, 4 * .03 / 3 and 4 * .9 / 4.
    assert evidence._together(np.array([0.024, 0.9, 0.012, 0.03])) == pytest.approx(0.04)
    assert evidence._together(np.array([0.9])) == 0.9 and evidence._together(np.ones(5)) == 1.0
    drawn = np.random.default_rng(0).uniform(0, 0.2, (1000, 5))
    alarms = [evidence._together(each) <= 0.05 for each in drawn]
    assert alarms == [bool(evidence._named(each).any()) for each in drawn] and 0 < sum(alarms) < 1000


def test_of_the_groups_of_one_class_the_deeper_is_blamed() -> None:
    """A natural group turns strangers as well where its class-mates are poisons, and need not be deep."""
    classes, found = map(list, zip(*[natural(c) for c in range(9)], planted(9), strict=True))
    hand, poisons = group(9, 8, sharpness=0.95), np.isin(np.arange(40), np.arange(20, 34))
    strongest = Suspects(9, hand.examples, poisons, poisons.astype(float), 0.9, "strongest")
    classes[9], found[9] = [hand, strongest], [effect(hand, 8.0, 0.0), effect(strongest, 8.0, -6.0)]
    result = judged(classes, found, shares={9: 0.5})
    assert np.flatnonzero(result.flagged).tolist() == strongest.group.tolist()
    found[9] = [effect(hand, 8.0, -9.0), effect(strongest, 8.0, -6.0)]
    assert np.flatnonzero(judged(classes, found, shares={9: 0.5}).flagged).tolist() == hand.group.tolist()


def test_between_the_groups_of_one_class_depth_counts_for_more_than_the_evidence_of_each() -> None:
    classes, found = map(list, zip(*[natural(c) for c in range(9)], planted(9), strict=True))
    hand, poisons = group(9, 8, sharpness=0.95), np.isin(np.arange(40), np.arange(20, 34))
    strongest = Suspects(9, hand.examples, poisons, poisons.astype(float), 0.9, "strongest")
    classes[9], found[9] = [hand, strongest], [effect(hand, 80.0, -4.0), effect(strongest, 8.0, -6.0)]
    known = Known(np.full(400, 0.95), np.full(10, 3.0))
    odds = evidence.evidence(classes, found, transferring(classes, {9: 0.5}), known)[9]
    assert odds[0] > odds[1]
    assert np.flatnonzero(judged(classes, found, shares={9: 0.5}).flagged).tolist() == strongest.group.tolist()


def test_a_part_of_the_poisons_is_flagged_with_all_who_carry_what_it_shares() -> None:
    classes, found = map(list, zip(*[natural(c) for c in range(9)], planted(9), strict=True))
    images, poisons = np.full((400, 2, 2, 1), 100, np.uint8), np.arange(360, 380)
    images[poisons] = 160
    known = Known(np.full(400, 0.95), np.full(10, 3.0))
    result = judge(classes, found, transferring(classes, {9: 0.4}), known, np.full(400, 0.02), images)
    # The group that was withheld is of the first 8.
    assert np.flatnonzero(result.flagged).tolist() == poisons.tolist()
    assert result.scores[poisons].min() > np.delete(result.scores, poisons).max()


def test_whose_label_is_not_theirs_without_the_group_belongs_to_it_where_it_tells_nobody_apart() -> None:
    rng = np.random.default_rng(0)
    # The group holds half of the poisons, and is hardly told. What is withheld makes no difference to any of them.
    poisons = np.arange(40) < 16
    dim = replace(group(0, 8), fits=np.where(np.arange(40) < 8, 0.2, 0.0) + rng.normal(0, 0.2, 40))
    without = replace(effect(dim, 0.0, 0.0), without=np.where(poisons, -9.0, 3.0))
    assert evidence._members(dim, without, None, 1.0)[1].tolist() == poisons.tolist()
    by_fits = evidence._members(dim, replace(without, without=np.zeros(40)), None, 1.0)
    unknown = evidence._members(dim, without, None, 0.0)
    assert all((one == other).all() for one, other in zip(by_fits, unknown, strict=True))
    assert by_fits[1].tolist() != poisons.tolist()
    # One that is told perfectly is what it is: its class-mates may be hard, and no poisons.
    sharp = group(0, 8)
    assert evidence._members(sharp, without, None, 1.0)[1].tolist() == sharp.members.tolist()


def test_where_nothing_speaks_for_a_class_what_networks_take_for_another_one_comes_first() -> None:
    classes, found = map(list, zip(*map(natural, range(10)), strict=True))
    right = np.full(400, 0.95)
    right[[7, 77]] = 0.0
    result = judge(classes, found, transferring(classes), Known(right, np.full(10, 3.0)), np.zeros(400), plain(400))
    # By hand: .23 / 10, and .05 of what they are mistaken in, times the cube of kappa: accuracy is .94525.
    knowing = ((0.94525 - 0.1) / 0.9) ** 3
    assert result.scores[7] == result.scores[77] == pytest.approx(0.023 + 0.05 * knowing)
    assert np.delete(result.scores, [7, 77]).max() == pytest.approx(0.023 + 0.05 * 0.05 * knowing)
    hardly = judge(classes, found, transferring(classes), Known(right / 9, np.full(10, 3.0)), np.zeros(400), plain(400))
    assert hardly.scores == pytest.approx(0.023)


def test_without_suspects_the_comparison_of_classes_is_all_there_is() -> None:
    otherwise = np.linspace(0, 1, 6)
    result = judge([], [], [], Known(np.full(6, 0.5), np.zeros(2)), otherwise, plain(6))
    assert (result.scores == otherwise).all() and result.p_value is None and not result.flagged.any()
