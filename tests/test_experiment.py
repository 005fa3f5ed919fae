from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import (
    Attack,
    BdbenchError,
    Detector,
    State,
    Tools,
    TrainingView,
    TriggerAttack,
    Workshop,
    progress,
)
from bdbench.progress import Silent
from bdbench_datamodel import ensemble
from tests.conftest import TINY, TINY_DATAMODEL, Forget


def numbers(data: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ between two runs of the same cell: times and memory."""
    cost = {k: v for k, v in data["cost"].items() if k == "models_trained"}
    # The digest is of those as well; what ``record.load`` gives has none.
    rest = {key: value for key, value in data.items() if key != "digest"}
    return {**rest, "cost": {**cost, "stages": sorted(data["cost"]["seconds"])}}


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    first, second = (
        bdbench.run(defense=TINY_DATAMODEL, out=tmp_path / name, **TINY).to_dict() for name in ("one", "two")
    )
    assert numbers(first) == numbers(second)
    scores = [np.load(tmp_path / n / first["id"] / "scores.npz")["scores"] for n in ("one", "two")]
    assert np.array_equal(*scores)


def test_another_seed_gives_another_set(tiny: dict[str, Any]) -> None:
    records = [bdbench.run(defense="random", seed=s, **tiny) for s in (0, 1)]
    roles = [np.load(tiny["out"] / r.id / "scores.npz")["roles"] for r in records]
    assert not np.array_equal(*roles)


def test_a_second_identical_run_trains_nothing(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = bdbench.run(defense=TINY_DATAMODEL, **tiny).to_dict()

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("bdbench.networks.training.Trainer.train", refuse)
    monkeypatch.setattr("bdbench_datamodel.detector.Datamodel.score", refuse)
    second = bdbench.run(defense=TINY_DATAMODEL, **tiny).to_dict()
    assert numbers(first) == numbers(second)
    # The cost of a stage is that of computing it, not of finding it.
    stages = ("victim", "score", "retrain")
    assert all(first["cost"]["seconds"][s] == second["cost"]["seconds"][s] for s in stages)
    with pytest.raises(AssertionError, match="computed again"):
        bdbench.run(defense=TINY_DATAMODEL, fresh=True, **tiny)


def test_defenses_share_set_and_victim_and_do_not_disturb_each_other(tmp_path: Path) -> None:
    specs = ["random", TINY_DATAMODEL, "spectral"]
    together = bdbench.run_all(defenses=specs, out=tmp_path / "a", **TINY)
    alone = [bdbench.run(defense=s, out=tmp_path / "b", **TINY) for s in reversed(specs)][::-1]
    assert [numbers(r.to_dict()) for r in together] == [numbers(r.to_dict()) for r in alone]
    assert len({json.dumps(r.to_dict()["before"]) for r in together}) == 1


def test_two_estimators_share_one_ensemble(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:

    calls = []
    original = ensemble.train_margins
    monkeypatch.setattr(ensemble, "train_margins", lambda *a, **k: calls.append(1) or original(*a, **k))
    records = bdbench.run_all(
        defenses=[f"{TINY_DATAMODEL},score_by=posterior,estimator={e}" for e in ("all", "covariance", "ridge")], **tiny
    )
    assert len(calls) == 3  # chunks of one ensemble
    assert [r.cost.models_trained for r in records] == [13, 13, 13]


def test_the_control_has_no_success_rate_and_counts_false_alarms(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense="low-loss", **{**tiny, "attack": "none"})
    assert record.control and record.before.attack_success_rate is None
    assert record.after is not None and record.after.robust_accuracy is None
    assert record.detection is not None and record.detection.auroc is None
    assert record.detection.fpr_at_budget == pytest.approx(0.1)
    assert record.derived.defense_effectiveness_rating is None


def test_what_is_kept_is_the_complement_of_the_budget(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense="low-loss", budget=0.2, **tiny)
    arrays = np.load(tiny["out"] / record.id / "scores.npz")
    assert arrays["kept"].sum() == 240
    assert arrays["scores"][~arrays["kept"]].min() >= arrays["scores"][arrays["kept"]].max()
    assert np.bincount(arrays["roles"]).tolist() == [285, 15]


def test_a_run_sweeps_up_after_one_that_was_killed(tiny: dict[str, Any]) -> None:
    left = tiny["out"] / ".unfinished-run"
    left.mkdir(parents=True)
    os.utime(left, times=(0, 0))
    bdbench.run(defense="random", budget=0, **tiny)
    assert not left.exists()


def test_a_budget_of_zero_scores_and_removes_nothing(tiny: dict[str, Any]) -> None:
    removing, scoring = (bdbench.run(defense="low-loss", budget=budget, **tiny) for budget in (0.1, 0))
    assert removing.detection is not None and scoring.detection is not None
    assert scoring.detection.auroc == removing.detection.auroc
    assert (scoring.detection.tpr_at_budget, scoring.detection.fpr_at_budget) == (None, None)
    assert (scoring.after, scoring.reference) == (None, None)
    assert (scoring.cost.models_trained, removing.cost.models_trained) == (0, 1)
    assert not {"retrain", "reference"} & set(scoring.cost.seconds)
    assert "kept" not in np.load(tiny["out"] / scoring.id / "scores.npz")


def test_the_same_cell_on_other_data_is_another_run(tmp_path: Path) -> None:
    ids = []
    for content in (0, 1):
        rng = np.random.default_rng(content)
        x = rng.integers(0, 256, (60, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(60) % 3, x_test=x[:9], y_test=np.arange(9) % 3)
        cell = {**TINY, "dataset": "npz:path=d.npz", "data_root": tmp_path, "out": tmp_path / "runs"}
        ids.append(bdbench.run(defense="random", **cell).id)
    assert ids[0] != ids[1]
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2


def test_a_metric_that_fails_costs_no_run(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.registry.plugins import Plugin, Registration, installed

    plugin = Plugin("made", "made", "1")
    metrics = {"twice": lambda m: 2 * m.kept.mean(), "fails": lambda m: 1 / 0}
    made = {n: [Registration(n, bdbench.Metric(n, f), plugin)] for n, f in metrics.items()}
    monkeypatch.setitem(installed()._registered, "metric", made)
    record = bdbench.run(defense="random", **tiny)
    assert record.extra == {"twice": pytest.approx(1.8), "fails": None}
    assert plugin.error is not None and "ZeroDivisionError" in plugin.error


def test_a_mitigation_repairs_without_the_training_set(tiny: dict[str, Any]) -> None:
    first = bdbench.run(defense=Forget(), **tiny)
    assert first.detection is None
    assert first.cost.models_trained == 1
    assert set(first.cost.seconds) == {"data", "poison", "victim", "repair"}
    assert numbers(first.to_dict()) == numbers(bdbench.run(defense=Forget(), **tiny).to_dict())


@dataclass(frozen=True, kw_only=True)
class Bad(Detector):
    name = "bad"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.full(len(view.labels), np.nan)


@dataclass(frozen=True, kw_only=True)
class Vandal(Detector):
    name = "vandal"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        import torch

        with torch.no_grad():
            for p in tools.victim.network.parameters():
                p.zero_()
        return np.zeros(len(view.labels))


def test_a_defense_that_spoils_its_victim_disturbs_no_other(tmp_path: Path) -> None:
    alone = bdbench.run(defense="low-loss", out=tmp_path / "a", **TINY)
    _, after = bdbench.run_all(defenses=[Vandal(), "low-loss"], out=tmp_path / "b", **TINY)
    assert numbers(alone.to_dict()) == numbers(after.to_dict())


def test_another_class_of_the_same_name_is_not_served_from_the_store(tiny: dict[str, Any]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Impostor(Detector):
        name = "random"

        def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
            return np.arange(len(view.labels), dtype=float)

    bdbench.run(defense="random", **tiny)
    record = bdbench.run(defense=Impostor(), **tiny)
    assert np.load(tiny["out"] / record.id / "scores.npz")["scores"].tolist() == list(range(300))


def test_scores_that_are_not_finite_are_refused_and_nothing_is_written(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=r"defense 'bad' returned scores of shape \(300,\), 300 of them not finite"):
        bdbench.run(defense=Bad(), **tiny)
    assert [p.name for p in tiny["out"].iterdir()] == [".stages"]


@dataclass(frozen=True, kw_only=True)
class Wrong(TriggerAttack):
    name = "wrong"

    def stamp(self, images: np.ndarray, streams: bdbench.Streams) -> np.ndarray:
        return images

    def poison(self, train: bdbench.Split, state: State, tools: Workshop) -> bdbench.PoisonedData:
        made = super().poison(train, state, tools)
        return bdbench.PoisonedData(made.images.astype(float), made.labels, made.roles, made.original_labels)


def test_an_attack_that_returns_the_wrong_type_is_refused(tiny: dict[str, Any]) -> None:
    wrong: Attack = Wrong()
    with pytest.raises(BdbenchError, match=r"attack 'wrong' returned images of float64 .*: expected uint8"):
        bdbench.run(**{**tiny, "attack": wrong}, defense="random")


@dataclass(frozen=True, kw_only=True)
class Floats(TriggerAttack):
    name = "floats"
    at_test_time: bool = False

    def stamp(self, images: np.ndarray, streams: bdbench.Streams) -> np.ndarray:
        return images if self.at_test_time else images + 300.0

    def trigger(self, images: np.ndarray, streams: bdbench.Streams) -> np.ndarray:
        return images + 300.0


@pytest.mark.parametrize("at_test_time", [False, True])
def test_a_trigger_that_leaves_the_bytes_is_refused(tiny: dict[str, Any], at_test_time: bool) -> None:
    with pytest.raises(BdbenchError, match="attack 'floats' .* float64.*: expected uint8"):
        bdbench.run(**{**tiny, "attack": Floats(at_test_time=at_test_time)}, defense="random")


def test_a_component_of_the_wrong_kind_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="is no attack: expected a name with parameters, or a component"):
        bdbench.run(**{**tiny, "attack": Bad()}, defense="random")
    for odd in ({"path": "x"}, {"name": 3}, {"name": "badnets", 3: 4}):
        with pytest.raises(BdbenchError, match="is no component: expected a table with a name and parameters"):
            bdbench.run(**{**tiny, "attack": odd}, defense="random")
    with pytest.raises(BdbenchError, match="attack 'cascade': attacks=5 is not allowed: expected a list of attacks"):
        bdbench.run(**{**tiny, "attack": {"name": "cascade", "attacks": 5}}, defense="random")
    with pytest.raises(BdbenchError, match="no defense is given"):
        bdbench.run_all(defenses=[], **tiny)


def test_the_same_defense_twice_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="defense 'random' is given twice"):
        bdbench.run_all(defenses=["random", "random"], **tiny)


def test_where_no_terminal_is_bars_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the empty line that rich prints before version 15 when it ends."""
    monkeypatch.setattr("rich.progress.Progress.stop", lambda self: pytest.fail("ended"))
    with progress.bars() as shown, shown.section():
        shown.track(2, "work")(2)
        shown.say("done")


def test_progress_is_reported_to_the_end(tiny: dict[str, Any]) -> None:
    class Bars(Silent):
        def __init__(self) -> None:
            self.left: dict[str, int] = {}

        def track(self, total: int, label: str) -> Any:
            self.left[label] = total

            def advance(steps: int) -> None:
                self.left[label] -= steps

            return advance

    bars = Bars()
    bdbench.run(defense=TINY_DATAMODEL, progress=bars, **tiny)
    assert set(bars.left) == {
        "train the victim", "train the reference",
        "datamodel: networks", "datamodel: search", "datamodel: suspects", "datamodel: networks without suspects",
        "datamodel: strangers",
        "datamodel: retrain",
    }  # fmt: skip
    assert set(bars.left.values()) == {0}


def test_reporters_hear_of_every_run_and_stage_in_order(tiny: dict[str, Any]) -> None:
    from bdbench.registry.plugins import KINDS, installed

    heard: list[tuple[str, ...]] = []

    class Reporter:
        @bdbench.hookimpl
        def bdbench_run_started(self, run_id: str, config: dict[str, Any]) -> None:
            heard.append(("started", config["defense"]["name"]))

        @bdbench.hookimpl
        def bdbench_stage_finished(self, stage: str, reused: bool) -> None:
            heard.append((stage, str(reused)))

        @bdbench.hookimpl
        def bdbench_run_finished(self, record: dict[str, Any]) -> None:
            assert (tiny["out"] / record["id"] / "record.json").exists()
            heard.append(("finished", record["config"]["defense"]["name"]))

    for kind in KINDS:
        installed().registered(kind)
    reporter = Reporter()
    installed().manager.register(reporter, name="tests:reporter")
    try:
        bdbench.run_all(defenses=["random", "low-loss"], **tiny)
        bdbench.run_all(defenses=["random"], **tiny)
    finally:
        installed().manager.unregister(reporter)

    def shared(victim_reused: str) -> list[tuple[str, ...]]:
        return [("data", "False"), ("poison", "False"), ("victim", victim_reused)]

    assert heard == [
        ("started", "random"), *shared("False"), ("score", "False"), ("reference", "False"), ("retrain", "False"),
        ("finished", "random"),
        ("started", "low-loss"), ("score", "False"), ("retrain", "False"), ("finished", "low-loss"),
        ("started", "random"), *shared("True"), ("score", "True"), ("reference", "True"), ("retrain", "True"),
        ("finished", "random"),
    ]  # fmt: skip
