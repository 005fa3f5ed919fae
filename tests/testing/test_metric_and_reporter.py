from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bdbench import Measured, Metric, Record, Role, hookimpl
from bdbench.cells.stages import STAGES
from bdbench.testing import check_metric, check_reporter
from bdbench.testing.records import record as sample
from tests.testing.broken import Broken, expect_complete, expect_fault


def found_share(measured: Measured) -> float | None:
    poisons = measured.roles == Role.POISON
    return None if measured.kept is None or not poisons.any() else float(np.mean(~measured.kept[poisons]))


def careless_share(measured: Measured) -> float | None:
    poisons = measured.roles == Role.POISON
    return float(np.mean(~measured.kept[poisons])) if poisons.any() else None  # type: ignore[index]


def unmeasured_share(measured: Measured) -> float | None:
    poisons = measured.roles == Role.POISON
    return None if measured.kept is None else np.sum(~measured.kept[poisons]) / np.float64(poisons.sum())


def sorting(measured: Measured) -> float | None:
    if measured.scores is None:
        return None
    measured.scores.sort()
    return float(measured.scores[-1])


def accuracy_lost(measured: Measured) -> float | None:
    return float(measured.before["clean_accuracy"] - measured.after["clean_accuracy"])


CALLS = itertools.count()


def metric(compute: Callable[[Measured], Any], help: str = "share of the poisons that are removed, 0..1") -> Metric:
    return Metric("made", compute, help)


METRICS: list[Broken] = [
    ("says-what-it-is", metric(found_share, help=""), "help=''"),
    (
        "gives-a-number-or-none-for-every-cell",
        metric(careless_share),
        "subscriptable for a detector's cell with budget 0",
    ),
    (
        "gives-a-number-or-none-for-every-cell",
        metric(unmeasured_share),
        f"{np.float64('nan')!r} for a detector's control",
    ),
    (
        "gives-a-number-or-none-for-every-cell",
        metric(accuracy_lost),
        "KeyError: 'clean_accuracy' for a detector's",
    ),
    ("gives-a-number-or-none-for-every-cell", metric(lambda m: None), "None for every cell"),
    ("leaves-the-measurements-as-they-were", metric(sorting), "scores changed in a detector's cell"),
    ("same-cell-same-number", metric(lambda m: next(CALLS)), "0 and 1 for a detector's cell"),
]


def test_a_sound_metric_passes() -> None:
    check_metric(metric(found_share))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("check", "broken", "found"), METRICS)
def test_a_broken_metric_is_found(check: str, broken: Metric, found: str) -> None:
    expect_fault("metric", check, broken, found)


def test_every_check_of_metrics_finds_something() -> None:
    expect_complete("metric", metric(found_share), METRICS)


def reporter(hook: Callable[..., None]) -> types.ModuleType:
    module = types.ModuleType("made")
    name = "bdbench_stage_finished" if "stage" in inspect.signature(hook).parameters else "bdbench_run_finished"
    vars(module)[name] = hookimpl(specname=name)(hook)
    return module


def appends(record: dict[str, Any]) -> None:
    with open("log", "a") as file:
        file.write(record["id"])


def expects_detection(record: dict[str, Any]) -> None:
    float(record["detection"]["budget"])


def knows_repair_only(stage: str) -> None:
    {"victim": 0, "repair": 1}[stage]


def knows_no_verdict(record: dict[str, Any]) -> None:
    if record["after"] is None:
        raise ValueError("no accuracy")


def shortens(record: dict[str, Any]) -> None:
    record.pop("config")


def prints(run_id: str) -> None:
    print("finished", run_id)


REPORTERS: list[Broken] = [
    ("takes-every-run", reporter(expects_detection), "TypeError: 'NoneType' object is not subscriptable"),
    ("takes-every-run", reporter(knows_no_verdict), "ValueError: no accuracy"),
    ("takes-every-run", reporter(knows_repair_only), "KeyError: 'score'"),
    ("leaves-the-record-as-it-was", reporter(shortens), "changed: config"),
    ("keeps-standard-output-clean", reporter(prints), "it printed 'finished conformance-"),
]


def test_a_sound_reporter_passes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_reporter(reporter(appends))
    assert not list(tmp_path.iterdir())  # it wrote into a folder that is gone


@pytest.mark.parametrize(("check", "broken", "found"), REPORTERS)
def test_a_broken_reporter_is_found(check: str, broken: Any, found: str) -> None:
    expect_fault("reporter", check, broken, found)


def test_every_check_of_reporters_finds_something() -> None:
    expect_complete("reporter", reporter(appends), REPORTERS)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_sample_records_are_valid_and_have_what_their_stage_has(stage: str, control: bool) -> None:
    data = sample(stage, control).to_dict()
    assert Record.from_dict(data).to_dict() == data
    measured = {"training set": {"detection", "decision"}, "inputs": {"inputs"}, "model": {"verdict"}}
    parts = {"detection", "decision", "inputs", "verdict"}
    assert {part for part in parts if data[part] is not None} == measured.get(stage, set())
    assert (data["before"]["attack_success_rate"] is None) == control
    assert (data["after"] is None) == (stage == "model")
