"""What the checks keep for one another: what a defense gives for the usual sets, the victim, and what is crafted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bdbench import Detector, Split, State, Tools, TrainingView, Workshop, param
from bdbench.testing import check_defense
from bdbench.testing.kinds import COUNT, usual
from bdbench.testing.samples import GREY, handed_over, poisoned
from bdbench.testing.trials import crafted
from bdbench_triggers.badnets import BadNets
from tests.test_experiment import Vandal
from tests.testing.broken import expect_fault

CALLS: Counter[str] = Counter()


@dataclass(frozen=True, kw_only=True)
class Light(Detector):
    """How light an image is."""

    name = "light"
    factor: float = param(1.0, help="of the light")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        CALLS[self.name] += 1
        return self.factor * view.images.mean((1, 2, 3), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class FromFile(Light):
    """By a file."""

    name = "from-file"

    def files(self) -> tuple[Path, ...]:
        return (Path(__file__),)


class Unhashable(Light):
    """As one is that holds a list."""

    name = "unhashable"
    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _none() -> None:
    CALLS.clear()


def test_what_a_defense_gives_for_a_usual_set_is_made_once_for_all_checks() -> None:
    first, again = usual(Light(factor=2.0), GREY), usual(Light(factor=2.0), GREY)
    assert CALLS == {"light": 1}
    assert first is again and not np.array_equal(first["scores"], usual(Light(factor=3.0), GREY)["scores"])


@pytest.mark.parametrize("cls", [FromFile, Unhashable])
def test_it_is_made_anew_where_parameters_do_not_tell_all_of_it(cls: type[Light]) -> None:
    for _ in "12":
        usual(cls(), GREY)
    assert {cls.name: 2} == CALLS
    check_defense(cls())


@dataclass(frozen=True, kw_only=True)
class Counting(Light):
    """Another number each time."""

    name = "counting"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return super().score(view, tools) + CALLS[self.name] * np.arange(len(view.labels))


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("one-seed-gives-one-result", "other scores under other global seeds"),
        ("remembers-nothing", "other scores the second time"),
        ("does-not-reach-the-truth", "other scores for other roles"),
    ],
)
def test_what_was_kept_hides_nothing_of_a_defense_that_counts(check: str, found: str) -> None:
    usual(Counting(), GREY)
    expect_fault("defense", check, Counting(), found)


def test_a_victim_that_a_defense_damages_is_whole_for_the_next() -> None:
    data = poisoned(GREY, COUNT)
    with handed_over(Light(), data) as handed:
        before = handed.tools.victim.logits(handed.images)
    with handed_over(Vandal(), data) as handed:
        Vandal().score(handed.view, handed.tools)
        assert not handed.tools.victim.logits(handed.images).any()
    with handed_over(Light(), data) as handed:
        assert np.array_equal(handed.tools.victim.logits(handed.images), before)


@dataclass(frozen=True, kw_only=True)
class Drawing(BadNets):
    """A patch that is drawn."""

    name = "drawing"
    sides: str = param("three", help="how many sides it has")

    def craft(self, train: Split, tools: Workshop) -> State:
        CALLS[self.sides] += 1
        return {"drawn": tools.streams("drawn").random(3)}


def test_what_an_attack_crafts_is_made_once_and_handed_out_as_it_was() -> None:
    first = crafted(Drawing(), GREY)
    drawn = first["drawn"].copy()
    first["drawn"][:] = 0
    assert np.array_equal(crafted(Drawing(), GREY)["drawn"], drawn)
    assert CALLS == {"three": 1}
    assert not np.array_equal(crafted(Drawing(), GREY, seed=1)["drawn"], drawn)
    crafted(Drawing(sides="four"), GREY)
    assert CALLS == {"three": 2, "four": 1}
