from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel import transfer
from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer, turned
from bdbench_datamodel.withheld import Effect

SIZE = 40


def predict(images: np.ndarray) -> np.ndarray:
    """A model of images of 1 x 3 pixels that obeys a trigger in pixel 0, and else takes pixel 1 for the label."""
    triggered = images[:, 0, 0, 0] >= 150
    return np.where(triggered, 0, images[:, 0, 1, 0] // 50).astype(np.int64)


def a_set(labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images whose pixel 1 tells their label, and whose pixel 0 is grey."""
    found = np.repeat(np.arange(labels), SIZE)
    images = np.full((labels * SIZE, 1, 3, 1), 100, np.uint8)
    images[:, 0, 1, 0] = 50 * found + 25
    return images, found


def group(label: int, members: int, kind: str = "sharpest") -> Suspects:
    """The first members of a class."""
    inside = np.arange(SIZE) < members
    return Suspects(label, label * SIZE + np.arange(SIZE), inside, inside.astype(float), 0.9, kind)


def without(suspect: Suspects, taken: tuple[float, ...]) -> Effect:
    """A group whose members are taken for the classes so often without each other."""
    nothing = np.zeros(len(suspect.members))
    return Effect(nothing, nothing, 0.0, 0.0, np.array(taken))


def nothing(classes: list[list[Suspects]]) -> list[list[Effect]]:
    """Groups whose members are never taken for another class."""
    return [[without(own, (0.0, 0.0, 0.0)) for own in groups] for groups in classes]


def evenly(own: list[Transfer]) -> list[float]:
    """How far each group's share turns strangers, of networks that know nothing of the classes."""
    return [found.turned(np.zeros(len(found.shares)), 0.0) for found in own]


def test_a_trigger_turns_strangers_and_what_is_natural_does_not() -> None:
    images, labels = a_set()
    # Poisons of class 0 are images of class 2 with the trigger; some of class 1 are natural, only darker in pixel 2.
    images[:8, 0, 0, 0], images[:8, 0, 1, 0] = 200, 125
    images[SIZE : SIZE + 8, 0, 2, 0] = 20
    planted, natural = turned(
        predict,
        images,
        labels,
        [[group(0, 8)], [group(1, 8)]],
        nothing([[group(0, 8)], [group(1, 8)]]),
        3,
        np.random.default_rng(0),
    )
    # By hand: pixel 0 + 100 turns all of both other classes; with the sign turned pixel 1 - 100 turns both to label 0.
    assert evenly(planted) == [1.0]
    assert evenly(natural) == [0.0]


def test_what_is_added_is_what_tells_members_from_the_classes_they_are_taken_for() -> None:
    """Poisons of class 2 with the label of 0 and a trigger, and the other half of the class, as it is."""
    images, labels = a_set()
    images[:20, 0, 0, 0], images[:20, 0, 1, 0] = 200, 125
    first = group(0, 20)
    rest = Suspects(0, first.examples, ~first.members, 1 - first.fits, 0.9, "rest")
    effects = [[without(first, (0.0, 0.0, 1.0)), without(rest, (0.0, 1.0, 0.0))]]
    ((planted, natural),) = turned(predict, images, labels, [[first, rest]], effects, 3, np.random.default_rng(0))
    # By hand: poisons are 100 of pixel 0 above class 2, which turns all. Of the others the mean less that of class 1 is
    # -50 of pixel 1: images of class 1 are then of label 0, and those of class 2 of label 1.
    assert planted.added == 1.0 and natural.added == 0.5
    # Where they are taken for no class, for both alike: pixel 1 is 75 lower, and both classes turn, to 0 and 50 // 50.
    effects = [[without(first, (0.0, 0.0, 1.0)), without(rest, (0.0, 0.0, 0.0))]]
    ((_, natural),) = turned(predict, images, labels, [[first, rest]], effects, 3, np.random.default_rng(0))
    assert natural.added == 0.5


def test_mislabelled_images_without_a_trigger_turn_strangers_one_way_alone() -> None:
    images, labels = a_set()
    images[:8, 0, 1, 0] = 125  # images of class 2
    ((found,),) = turned(
        predict, images, labels, [[group(0, 8)]], nothing([[group(0, 8)]]), 3, np.random.default_rng(0)
    )
    # By hand: pixel 1 - 100 turns all of both classes, and + 100 none.
    assert evenly([found]) == [0.5]


def test_a_trigger_that_turns_one_class_of_two_counts_by_the_root_of_its_share() -> None:
    def specific(images: np.ndarray) -> np.ndarray:
        plain = images[:, 0, 1, 0] // 50
        return np.where((images[:, 0, 0, 0] >= 150) & (plain == 2), 0, plain).astype(np.int64)

    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    ((found,),) = turned(
        specific, images, labels, [[group(0, 8)]], nothing([[group(0, 8)]]), 3, np.random.default_rng(0)
    )
    # By hand: class 1 never turns, class 2 when pixel 0 rises, and not when it falls: (0 + 1) / 2 of it.
    assert evenly([found]) == [pytest.approx(np.sqrt(0.5**2 / 2))]
    assert np.isnan(found.shares[0]) and found.shares[1:].tolist() == [0, 0.5]


def test_strangers_that_have_the_label_anyway_do_not_count() -> None:
    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    own = [[group(0, 8)]]

    def constant(images: np.ndarray) -> np.ndarray:
        return np.zeros(len(images), np.int64)

    assert evenly(turned(constant, images, labels, own, nothing(own), 3, np.random.default_rng(0))[0]) == [0.0]


def test_the_rest_of_a_class_shares_what_its_group_does_turned_round() -> None:
    images, labels = a_set()
    images[:20, 0, 0, 0], images[:20, 0, 1, 0] = 200, 125
    first = group(0, 20)
    rest = Suspects(0, first.examples, ~first.members, 1 - first.fits, 0.9, "rest")
    asked: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return predict(images)

    (both,) = turned(counting, images, labels, [[first, rest]], nothing([[first, rest]]), 3, np.random.default_rng(0))
    assert evenly(both)[0] == evenly(both)[1] > 0
    (alone,) = turned(predict, images, labels, [[rest_alone(rest)]], nothing([[rest]]), 3, np.random.default_rng(0))
    assert evenly(alone)[0] == evenly(both)[1]
    # Three classes as they are, and all strangers twice, and once for what tells either part from other classes.
    assert asked == [SIZE] * 3 + [2 * SIZE] * 4


def rest_alone(rest: Suspects) -> Suspects:
    return Suspects(rest.label, rest.examples, rest.members, rest.fits, rest.sharpness, "sharpest")


def test_as_many_strangers_of_each_class_and_the_same_from_one_seed() -> None:
    images, labels = np.zeros((1200, 1, 3, 1), np.uint8), np.repeat([0, 1, 2], [1000, 190, 10])
    images[:, 0, 0, 0] = np.arange(1200) % 251
    shown: list[np.ndarray] = []

    def seeing(images: np.ndarray) -> np.ndarray:
        shown.append(images.copy())
        return np.zeros(len(images), np.int64)

    own = [[Suspects(0, np.arange(1000), np.arange(1000) < 50, np.zeros(1000), 0.9, "sharpest")]]
    turned(seeing, images, labels, own, nothing(own), 3, np.random.default_rng(3))
    turned(seeing, images, labels, own, nothing(own), 3, np.random.default_rng(3))
    # 360 among two other classes are 180 of each, or as many as there are.
    assert [len(batch) for batch in shown] == [180, 180, 10, 190, 190] * 2
    assert all((first == second).all() for first, second in zip(shown[:5], shown[5:], strict=True))


def test_there_are_no_strangers_to_one_class_alone() -> None:
    images, labels = a_set(1)
    assert evenly(
        turned(predict, images, labels, [[group(0, 8)]], nothing([[group(0, 8)]]), 3, np.random.default_rng(0))[0]
    ) == [0.0]


def test_the_images_stay_as_they_are() -> None:
    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    before = images.copy()
    images.flags.writeable = False
    turned(predict, images, labels, [[group(0, 8)]], nothing([[group(0, 8)]]), 3, np.random.default_rng(0))
    assert (images == before).all()


def test_classes_count_by_how_often_members_are_taken_for_them_as_far_as_they_are_known() -> None:
    """A trigger may work on the class alone that its poisons are of."""
    found = Transfer(np.array([np.nan, 0.4, 0.0, np.nan]), 0.0)
    assert found.turned(np.array([0.0, 0.1, 0.3, 0.0]), 0.0) == pytest.approx(np.sqrt(0.4**2 / 2))
    # By hand: the weights 1/4 and 3/4, or half of that and half of 1/2 each. Classes without strangers do not count.
    assert found.turned(np.array([0.0, 0.1, 0.3, 0.6]), 1.0) == pytest.approx(np.sqrt(0.4**2 / 4))
    assert found.turned(np.array([0.0, 0.1, 0.3, 0.0]), 0.5) == pytest.approx(np.sqrt(0.4**2 * 3 / 8))
    # Members that are never taken for another class tell nothing of it.
    assert found.turned(np.zeros(4), 1.0) == pytest.approx(np.sqrt(0.4**2 / 2))


def test_strangers_that_are_turned_away_count_as_none() -> None:
    before = [np.array([True, False]), np.array([False, True])]
    assert transfer._gained(np.array([False, False, True, True]), before) == [0.0, 0.5]
