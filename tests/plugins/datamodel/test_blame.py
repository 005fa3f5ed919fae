from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel.blame import blamed
from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect
from tests.plugins.datamodel.suspected import effect, group

LABELS = 4


def parts(first: int, explained: tuple[float, float] = (0.6, 0.6), size: int = 40) -> list[Suspects]:
    """A class's sharpest group, of so many members, and the rest of it; explained: of each."""
    own = group(0, first, size, explained=explained[0])
    return [own, Suspects(0, own.examples, ~own.members, 1 - own.fits, own.sharpness, "rest", explained[1])]


def taken_for(suspect: Suspects, counts: tuple[float, ...]) -> Effect:
    """One whose members are taken for other classes so often."""
    nothing = np.zeros(len(suspect.members))
    return Effect(nothing, nothing, -4.0, 8.0, np.array(counts))


def unmoved(groups: list[Suspects], added: tuple[float, ...] = ()) -> list[Transfer]:
    """Shares that do nothing to strangers; added: how many turn once each is told from other classes."""
    return [Transfer(np.full(LABELS, np.nan), value) for value in added or (0.0,) * len(groups)]


def to_blame(groups: list[Suspects], against: tuple[float, ...]) -> int:
    """Among groups that nothing but ``against`` and their members tell apart."""
    return blamed(groups, [effect(own, 8, -4) for own in groups], unmoved(groups), np.array(against))


def test_the_group_that_most_speaks_against_is_blamed() -> None:
    few, other = (
        group(0, 5, kind="handful"),
        Suspects(0, np.arange(40), np.arange(40) > 30, np.zeros(40), 0.5, "sharpest"),
    )
    assert to_blame([other, few], (1.0, 2.0)) == 1
    assert to_blame([other, few], (2.0, 1.0)) == 0


def test_a_handful_stands_for_a_larger_group_that_it_lies_in_and_against_which_nearly_as_much_speaks() -> None:
    whole, part = group(0, 20), group(0, 5, kind="handful")
    assert to_blame([whole, part], (4.0, 5.0)) == 0
    assert to_blame([whole, part], (3.4, 5.0)) == 1
    # Four of five members are in it, or three.
    for inside, expected in ((4, 0), (3, 1)):
        members = np.zeros(40, bool)
        members[:inside], members[30 : 35 - inside] = True, True
        most = Suspects(0, whole.examples, members, members.astype(float), 0.7, "handful")
        assert to_blame([whole, most], (4.0, 5.0)) == expected


def test_of_several_larger_groups_the_largest_stands_for_all() -> None:
    groups = [group(0, 10), group(0, 16, kind="strongest"), group(0, 5, kind="handful")]
    assert to_blame(groups, (4.5, 4.0, 5.0)) == 1


def test_the_rest_of_a_class_stands_for_nothing_that_lies_in_it() -> None:
    first, rest = parts(16)
    inside = Suspects(0, first.examples, np.arange(40) >= 34, first.fits, 0.9, "handful")
    assert to_blame([first, rest, inside], (4.0, 5.0, 5.5)) == 2


def test_a_strongest_group_is_blamed_beside_two_parts() -> None:
    first, rest = parts(16, (0.2, 0.7))
    strongest = Suspects(0, first.examples, ~first.members, first.fits, 0.9, "strongest")
    assert to_blame([first, rest, strongest], (1.0, 1.0, 5.0)) == 2


@pytest.mark.parametrize(
    ("first", "explained", "expected"),
    [
        (20, (0.2, 0.7), 0),  # a trigger does what the other half does not tell
        (20, (0.7, 0.2), 1),
        (12, (0.6, 0.3), 0),  # the smaller part, unless that speaks clearly for the larger: twice .3 against 1
        (12, (0.9, 0.3), 1),
        (28, (0.3, 0.6), 1),  # whichever of the two was found as the sharpest
        (28, (0.3, 0.9), 0),
        (15, (0.6, 0.4), 0),  # .375 of the class: half way, .5
        (15, (0.6, 0.3), 1),
        (18, (0.6, 0.5), 1),  # .45 and more: of one size
    ],
)
def test_which_of_two_parts_is_blamed(first: int, explained: tuple[float, float], expected: int) -> None:
    both = parts(first, explained)
    found = [effect(own, 8, -4, LABELS) for own in both]
    for against in ((5.0, 4.0), (4.0, 5.0)):
        assert blamed(both, found, unmoved(both), np.array(against)) == expected


def test_of_two_parts_that_is_blamed_whose_members_are_taken_for_all_classes_alike() -> None:
    against = np.array([5.0, 5.0])
    spread, one, two = (0.0, 0.2, 0.2, 0.2), (0.0, 0.6, 0.0, 0.0), (0.0, 0.3, 0.3, 0.0)
    # By hand: 4 (log n / log 3)^4 for n classes alike of three, 4 and .634, against twice what the other part tells.
    for counts, margin, expected in (
        ((spread, one), 0.0, 0),
        ((one, spread), 0.0, 1),
        ((two, one), 0.31, 0),
        ((two, one), 0.33, 1),
    ):
        both = parts(20, (0.6, 0.6 - margin))
        found = [taken_for(own, each) for own, each in zip(both, counts, strict=True)]
        assert blamed(both, found, unmoved(both), against) == expected


def test_of_two_parts_that_is_blamed_which_turns_strangers_once_it_is_told_from_other_classes() -> None:
    against = np.array([5.0, 5.0])
    # By hand: 2.5 (.5 - .1) is twice .5.
    for added, margin, expected in (
        ((0.5, 0.1), 0.0, 0),
        ((0.1, 0.5), 0.0, 1),
        ((0.5, 0.1), 0.49, 0),
        ((0.5, 0.1), 0.51, 1),
    ):
        both = parts(20, (0.8, 0.8 - margin))
        assert blamed(both, [effect(own, 8, -4, LABELS) for own in both], unmoved(both, added), against) == expected


def test_of_two_parts_that_is_blamed_whose_members_are_of_the_classes_that_it_turns() -> None:
    """A trigger of one class: its poisons are taken for that, and only strangers of that one turn."""
    both, against = parts(20), np.array([5.0, 5.0])
    shares = np.array([np.nan, 0.6, 0.0, 0.0])
    turns = [Transfer(shares, 0.0)] * 2
    for counts, expected in ((((0, 1, 0, 0), (0, 0, 1, 0)), 0), (((0, 0, 1, 0), (0, 1, 0, 0)), 1)):
        found = [taken_for(own, each) for own, each in zip(both, counts, strict=True)]
        assert blamed(both, found, turns, against) == expected
        # As far as networks know the classes: where they do not, all classes count as much, and it is a tie.
        assert blamed(both, found, turns, against, knowing=0.0) == 0
