"""What the marked images of a class look like: to a model of all others, and in the picture of their difference."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import TrainingView
from bdbench.scanning import files, groups, page
from tests.scanning.conftest import arrays
from tests.scanning.test_reading import read

# What a model of the unmarked images says of ten marked ones of class 0 and three of class 1.
SAID = {0: [0] * 4 + [1] * 3 + [2] * 3, 1: [1, 1, 2]}


@pytest.fixture
def looked() -> tuple[Any, np.ndarray, list[groups.Group], list[np.ndarray]]:
    """What was read; bool (60,), the marked; the groups; and what the model was trained on."""
    found = read(arrays())
    marked = np.zeros(60, bool)
    marked[np.flatnonzero(found.labels == 0)[:10]] = marked[np.flatnonzero(found.labels == 1)[:3]] = True
    trained_on: list[np.ndarray] = []

    class Network:
        def predict(self, images: np.ndarray) -> np.ndarray:
            left = {label: iter(told) for label, told in SAID.items()}
            return np.array([next(left[label]) for label in found.labels[marked].tolist()])

    def trained(rows: np.ndarray, *_: Any) -> tuple[Network, None]:
        trained_on.append(rows)
        return Network(), None

    laboratory: Any = SimpleNamespace(view=TrainingView(found.images, found.labels, 3), trained=trained)
    return found, marked, groups.look(found, laboratory, marked, np.zeros(60)), trained_on


def test_a_group_resembles_the_other_class_that_most_of_it_is_taken_for(looked: Any) -> None:
    made = looked[2]
    # Most of the second are taken for what they are.
    assert [(g.name, len(g.rows), g.resembling, g.resembled) for g in made] == [("0", 10, 6, 1), ("1", 3, 1, None)]


def test_the_model_that_is_asked_has_seen_none_of_the_marked_images(looked: Any) -> None:
    _, marked, _, (trained_on,) = looked
    assert np.array_equal(trained_on, ~marked)


def test_ordinary_images_and_those_of_the_class_that_is_resembled_are_unmarked(looked: Any) -> None:
    found, marked, made, _ = looked
    assert not any(marked[g.ordinary].any() or marked[g.others].any() for g in made)
    assert set(found.labels[made[0].others]) == {1} and set(found.labels[made[0].ordinary]) == {0}


def test_the_difference_is_from_what_the_classes_that_are_resembled_usually_look_like(looked: Any) -> None:
    found, marked, made, _ = looked
    usual = [found.images[~marked & (found.labels == label)].mean(0) for label in range(3)]
    expected = found.images[made[0].rows].mean(0) - (0.4 * usual[0] + 0.3 * usual[1] + 0.3 * usual[2])
    assert np.allclose(made[0].difference, expected, atol=1e-3)


def test_the_same_is_told_in_the_file_and_on_the_page(looked: Any, quick: dict[str, Any]) -> None:
    made = looked[2]
    scan = replace(bdbench.scan(arrays(), defenses=["patch"], **quick), groups=made)
    told = files.to_dict(scan)["groups"][0]
    assert (told["resembles"], told["look_like_others"]) == ("1", 6)
    assert "6 of 10 look like another class, most often '1'" in page._told(made[0], 10, "1")
