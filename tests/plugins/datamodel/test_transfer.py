from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import turned

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


def test_a_trigger_turns_strangers_and_what_is_natural_does_not() -> None:
    images, labels = a_set()
    # Poisons of class 0 are images of class 2 with the trigger; some of class 1 are natural, only darker in pixel 2.
    images[:8, 0, 0, 0], images[:8, 0, 1, 0] = 200, 125
    images[SIZE : SIZE + 8, 0, 2, 0] = 20
    planted, natural = turned(predict, images, labels, [[group(0, 8)], [group(1, 8)]], np.random.default_rng(0))
    # By hand: pixel 0 + 100 turns all of both other classes; with the sign turned pixel 1 - 100 turns both to label 0.
    assert planted.tolist() == [1.0]
    assert natural.tolist() == [0.0]


def test_mislabelled_images_without_a_trigger_turn_strangers_one_way_alone() -> None:
    images, labels = a_set()
    images[:8, 0, 1, 0] = 125  # images of class 2
    ((found,),) = turned(predict, images, labels, [[group(0, 8)]], np.random.default_rng(0))
    # By hand: pixel 1 - 100 turns all of both classes, and + 100 none.
    assert found == 0.5


def test_a_trigger_that_turns_one_class_of_two_counts_by_the_root_of_its_share() -> None:
    def specific(images: np.ndarray) -> np.ndarray:
        plain = images[:, 0, 1, 0] // 50
        return np.where((images[:, 0, 0, 0] >= 150) & (plain == 2), 0, plain).astype(np.int64)

    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    ((found,),) = turned(specific, images, labels, [[group(0, 8)]], np.random.default_rng(0))
    # By hand: class 1 never turns, class 2 when pixel 0 rises, and not when it falls: (0 + 1) / 2 of it.
    assert found == pytest.approx(np.sqrt(0.5**2 / 2))


def test_strangers_that_have_the_label_anyway_do_not_count() -> None:
    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    own = [[group(0, 8)]]

    def constant(images: np.ndarray) -> np.ndarray:
        return np.zeros(len(images), np.int64)

    assert turned(constant, images, labels, own, np.random.default_rng(0))[0].tolist() == [0.0]


def test_the_rest_of_a_class_shares_what_its_group_does_turned_round() -> None:
    images, labels = a_set()
    images[:20, 0, 0, 0], images[:20, 0, 1, 0] = 200, 125
    first = group(0, 20)
    rest = Suspects(0, first.examples, ~first.members, 1 - first.fits, 0.9, "rest")
    asked: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return predict(images)

    (both,) = turned(counting, images, labels, [[first, rest]], np.random.default_rng(0))
    assert both[0] == both[1] > 0
    (alone,) = turned(predict, images, labels, [[rest_alone(rest)]], np.random.default_rng(0))
    assert alone[0] == both[1]
    # Three classes as they are, and all strangers twice.
    assert asked == [SIZE] * 3 + [2 * SIZE] * 2


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
    turned(seeing, images, labels, own, np.random.default_rng(3))
    turned(seeing, images, labels, own, np.random.default_rng(3))
    # 360 among two other classes are 180 of each, or as many as there are.
    assert [len(batch) for batch in shown] == [180, 180, 10, 190, 190] * 2
    assert all((first == second).all() for first, second in zip(shown[:5], shown[5:], strict=True))


def test_there_are_no_strangers_to_one_class_alone() -> None:
    images, labels = a_set(1)
    assert turned(predict, images, labels, [[group(0, 8)]], np.random.default_rng(0))[0].tolist() == [0.0]


def test_the_images_stay_as_they_are() -> None:
    images, labels = a_set()
    images[:8, 0, 0, 0] = 200
    before = images.copy()
    images.flags.writeable = False
    turned(predict, images, labels, [[group(0, 8)]], np.random.default_rng(0))
    assert (images == before).all()
