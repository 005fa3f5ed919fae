"""What is said before any work, in which order it is done, and that no record hangs on what ran before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, RobustTraining, Tools, TrainingView, Victim, experiment
from bdbench.registry.plugins import installed
from tests.cells.defenders import Constant, Corner, Trains, Tuned


def _done(out: Path) -> set[str]:
    """The stages that are kept."""
    return {json.loads(path.read_text())["config"]["stage"] for path in out.glob(".stages/*/*/meta.json")}


@pytest.mark.parametrize("dry", [False, True])
def test_what_does_not_apply_is_said_before_anything_is_crafted_or_trained(tiny: dict[str, Any], dry: bool) -> None:
    for attack, defense, options, message in (
        (Trains(), "random", {}, "the attacker trains the model"),
        (tiny["attack"], Tuned(), {"reserve": 0}, "no clean examples are set apart: reserve=0"),
    ):
        cell = experiment.cell(**{**tiny, "attack": attack, **options})
        chosen = installed().component("defense", defense)
        with pytest.raises(BdbenchError, match=message):
            if dry:
                cell.forecast([chosen])
            else:
                (found,) = cell.run([chosen])
                raise found  # type: ignore[misc]
    assert not _done(tiny["out"])


def test_too_small_a_reserve_is_said_before_the_victim_is_trained(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="needs clean examples"):
        bdbench.run(defense=Tuned(), reserve=0.0001, **tiny)
    assert not _done(tiny["out"])


def test_all_that_defenses_share_is_made_before_the_first_of_them(tiny: dict[str, Any]) -> None:
    """Else the limit of a cell is the first one's, with a training or two more to do in it."""
    for budget, shared in ((0.1, 3), (0, 2)):
        out = tiny["out"] / str(budget)
        cell = experiment.cell(**{**tiny, "out": out, "budget": budget, "floor": True})
        cell.prepare([installed().component("defense", "random")])
        assert _done(out) == {"train"} and len(list(out.glob(".stages/*/*/meta.json"))) == shared


def test_a_record_does_not_hang_on_what_ran_before_it(tiny: dict[str, Any]) -> None:
    _, after = bdbench.run_all(defenses=[Constant(), "random"], budget=0, **tiny)
    alone = bdbench.run(defense="random", budget=0, **{**tiny, "out": tiny["out"] / "alone"})
    assert after.id == alone.id and after.reference is alone.reference is None
    assert after.cost.seconds.keys() == alone.cost.seconds.keys()


def test_a_forecast_counts_the_models_that_are_trained(tiny: dict[str, Any]) -> None:
    for attack, defense, options, trained in (
        (tiny["attack"], "random", {}, 3),
        (tiny["attack"], "random", {"budget": 0}, 1),
        ("none", "random", {"budget": 0, "floor": True}, 1),
        (Trains(), Tuned(), {"floor": True}, 1),
    ):
        cell = experiment.cell(**{**tiny, "attack": attack, **options})
        assert cell.forecast([installed().component("defense", defense)]).trainings == trained


def test_a_repair_is_compared_with_the_victim_whatever_ran_before_it(tiny: dict[str, Any]) -> None:
    from bdbench.display import report

    first, second = bdbench.run_all(defenses=["random", Tuned()], **tiny)
    alone = bdbench.run(defense=Tuned(), **{**tiny, "out": tiny["out"] / "alone"})
    assert first.reference is not None and second.reference is None and "reference" not in second.cost.seconds
    assert (second.base, first.base) == (second.before, first.reference)
    assert report.verdict(second) == report.verdict(alone)


def test_a_reserve_of_nothing_is_an_error_in_one_line(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=r"defense 'tuned' needs clean examples, but reserve=0.0001 sets no example"):
        bdbench.run(defense=Tuned(), reserve=0.0001, **tiny)


def test_a_budget_that_does_not_apply_is_not_checked(tiny: dict[str, Any]) -> None:
    assert bdbench.run(defense=Corner(), budget=0.0001, **tiny).stage == "inputs"
    with pytest.raises(BdbenchError, match="budget=0.0001 removes 0 of 300 training examples"):
        bdbench.run(defense="random", budget=0.0001, **tiny)


@dataclass(frozen=True, kw_only=True)
class Wrongly(RobustTraining):
    """Trains on what is no training set of the model."""

    name = "wrongly"
    way: str = "labels"

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        images, labels = np.asarray(view.images), view.labels
        sets = {
            "labels": (images, labels[:5]),
            "size": (images[:, :-1], labels),
            "none": (images[:0], labels[:0]),
            "far": (images, labels + 100),
            "floats": (images, labels.astype(float)),
        }
        return tools.train(*sets[self.way], "wrongly")


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("labels", r"wrongly trains on images of \(300, 8, 8, 1\) with labels of \(5,\): expected \(n, 8, 8, 1\) and"),
        ("size", r"wrongly trains on images of \(300, 7, 8, 1\) with labels of \(300,\): expected"),
        ("none", r"wrongly trains on images of \(0, 8, 8, 1\) with labels of \(0,\): expected .* n at least 1"),
        ("far", r"wrongly trains on labels of int64 in 100..109: expected integers in 0..9"),
        ("floats", r"wrongly trains on labels of float64 in 0.0..9.0: expected integers in 0..9"),
    ],
)
def test_what_is_no_training_set_is_refused(way: str, message: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=message):
        bdbench.run(defense=Wrongly(way=way), **tiny)
