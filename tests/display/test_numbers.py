"""Each number of a report, a table or a picture is the one it is called: hand-made records and sets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from rich.console import Console

from bdbench import Role
from bdbench.display import pictures, preview, report, tables
from bdbench.storage import record


def test_the_sentence_of_a_report(run: Path) -> None:
    found = record.read(run)
    assert found.reference is not None and found.after is not None and found.detection is not None
    made = replace(
        found,
        reference=replace(found.reference, clean_accuracy=0.9, attack_success_rate=0.99),
        after=replace(found.after, clean_accuracy=0.8, attack_success_rate=0.03),
        detection=replace(found.detection, budget=0.1, tpr_at_budget=0.7),
    )
    assert report.verdict(made) == (
        "good",
        "The backdoor is gone: attack success fell from 99.0 % to 3.0 %. Clean accuracy went from 90.0 % to 80.0 %. "
        "70.0 % of the poisons were in the 10.0 % that it removed.",
    )


def _shown(stage: str, told: dict[str, Any]) -> str:
    out = StringIO()
    Console(file=out, width=120).print(tables._stage_table(stage, [told]))
    return out.getvalue()


def test_the_table_of_a_run(run: Path) -> None:
    """Every number of the record is another one; each stands in the row of its name, in percent where that says so."""
    told = json.loads((run / "record.json").read_text())
    names = [(part, key) for part in ("reference", "after", "detection") for key in told[part]]
    numbers = {(part, key): told[part][key] for part, key in names if isinstance(told[part][key], float)}
    for count, (part, key) in enumerate(numbers):
        numbers[part, key] = told[part][key] = 0.1 + 0.01 * count
    shown = _shown("training set", told)
    rows = {
        "AUROC": f"{numbers['detection', 'auroc']:.3f}",
        "AP": f"{numbers['detection', 'average_precision']:.3f}",
        "TPR at budget %": f"{100 * numbers['detection', 'tpr_at_budget']:.1f}",
        "FPR at budget %": f"{100 * numbers['detection', 'fpr_at_budget']:.1f}",
        "TPR at 1 % FPR %": f"{100 * numbers['detection', 'tpr_at_1pct_fpr']:.1f}",
    }
    for name, value in rows.items():
        assert re.search(rf"  {re.escape(name)} +│ +{re.escape(value)} ", shown), (name, value, shown)
    for part in ("reference", "after"):
        ca, asr = (f"{100 * numbers[part, key]:.1f}" for key in ("clean_accuracy", "attack_success_rate"))
        assert re.search(rf"CA % +│ +{re.escape(ca)} [^C]*ASR % +│ +{re.escape(asr)} ", shown), shown


def test_the_verdict_on_a_model() -> None:
    assert tables._verdict({"flagged": True, "targets": [3]}) == "backdoored, target 3"
    assert tables._verdict({"flagged": False, "targets": []}) == "clean"


def test_a_comparison_is_bold_where_its_interval_leaves_zero_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []
    add = tables.Table.add_row

    def added(self: Any, *cells: Any, **options: Any) -> None:
        rows.append((cells, options.get("style")))
        add(self, *cells, **options)

    monkeypatch.setattr(tables.Table, "add_row", added)
    row = {"number": "AUROC", "seeds": [0, 1], "baseline": 0.5, "mean": 0.7, "difference": 0.2}
    spans = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.3), (None, None)]
    differences = [{**row, "low": low, "high": high} for low, high in spans]
    tables.show_comparison({"baseline": "one", "cells": [{"cell": "two", "differences": differences}]})
    assert [style for _, style in rows] == ["bold", "bold", None, None]
    assert rows[0][0][3:] == ("0.500", "0.700", "+0.200", "+0.100 .. +0.300")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the report's pictures are asked to show, by the name of each."""
    found: dict[str, Any] = {}
    for name in ("histogram", "curves", "flagged", "before_and_after", "examples"):
        monkeypatch.setattr(pictures, name, lambda *given, name=name: found.update({name: given}))
    return found


def test_the_scores_of_a_report(drawn: dict[str, Any]) -> None:
    poisoned = SimpleNamespace(
        roles=np.array([Role.CLEAN, Role.POISON, Role.CLEAN, Role.POISON], np.int8),
        images=np.arange(4),
        labels=np.array([0, 1, 0, 1]),
        original_labels=np.zeros(4, int),
    )
    detection = SimpleNamespace(auroc=1.0, fpr_at_budget=0.1, tpr_at_budget=0.9)
    run: Any = SimpleNamespace(
        poisoned=poisoned,
        clean=SimpleNamespace(classes=("ant", "bee")),
        record=SimpleNamespace(seed=0, detection=detection),
    )
    list(report._scores(run, np.array([0.1, 0.8, 0.2, 0.9]), np.array([True, False, True, False])))
    # The threshold is the least score that is removed, the point (FPR, TPR).
    assert drawn["histogram"][2] == 0.8 and drawn["curves"][2] == (0.1, 0.9)
    images, _, labels = drawn["flagged"]
    assert images.tolist() == [3, 1, 2, 0] and labels.tolist() == ["bee", "bee", "ant", "ant"]


def test_the_inputs_of_a_report(drawn: dict[str, Any]) -> None:
    """Clean inputs, the attacked ones, and those that carry the trigger and are to be left alone."""
    arrays = {"clean_scores": np.zeros(2), "challenge_scores": np.ones(2)}
    run: Any = SimpleNamespace(arrays=arrays, attacked=np.array([True, False]))
    list(report._inputs(run))
    assert drawn["histogram"][1].tolist() == [Role.CLEAN, Role.CLEAN, Role.POISON, Role.COVER]


def test_the_poisons_and_the_bars_of_a_report(drawn: dict[str, Any], run: Path) -> None:
    blank = np.zeros((2, 4, 4, 1), np.uint8)
    poisoned = SimpleNamespace(
        roles=np.array([Role.CLEAN, Role.POISON], np.int8),
        index=None,
        images=blank,
        labels=np.array([0, 1]),
        original_labels=np.array([0, 0]),
    )
    clean = SimpleNamespace(train=SimpleNamespace(images=blank), classes=("ant", "bee"))
    made: Any = SimpleNamespace(clean=clean, poisoned=poisoned)
    list(report._poisons(made))
    assert drawn["examples"][2] == ["ant as bee"]
    found = record.read(run)
    opened: Any = SimpleNamespace(record=found, scores=None, arrays={}, poisoned=poisoned, clean=clean)
    list(report._sections(opened))
    assert found.base is not None and found.after is not None
    assert drawn["before_and_after"][0]["clean accuracy"] == (found.base.clean_accuracy, found.after.clean_accuracy)


def test_curves_histograms_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    # A cover that comes first is no false alarm.
    scores, roles = np.array([3.0, 2.0, 1.0]), np.array([Role.COVER, Role.POISON, Role.CLEAN])
    left, right = pictures.curves(scores, roles, None).axes
    assert (left.get_title(), right.get_title()) == ("AUROC 1.000", "average precision 1.000")
    line = left.lines[0]
    assert np.asarray(line.get_xdata()).tolist() == [0, 0, 1] and np.asarray(line.get_ydata()).tolist() == [0, 1, 1]
    picture, gain = pictures._amplified(np.array([[100, 100]], np.uint8), np.array([[110, 95]], np.uint8))
    assert gain == 12.7 and picture.tolist() == [[254, 64]]
    bars: list[Any] = []
    hist = Axes.hist
    monkeypatch.setattr(
        Axes, "hist", lambda self, x, *a, **k: bars.append((x.tolist(), k["label"])) or hist(self, x, *a, **k)
    )
    pictures.histogram(np.array([1.0, 2.0, 3.0]), np.array([Role.CLEAN, Role.POISON, Role.CLEAN]), None)
    assert bars == [([1.0, 3.0], "clean (2)"), ([2.0], "poison (1)")]


def test_what_a_preview_shows_beside_each_other() -> None:
    """Images are their place in the set; the poison is 100 lighter, the challenge 50."""
    clean = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    index = np.array([4, 2])
    poisoned = SimpleNamespace(
        roles=np.array([Role.CLEAN, Role.POISON]),
        index=index,
        images=clean[index] + 100,
        labels=np.array([0, 1]),
        original_labels=np.array([0, 0]),
    )
    test = SimpleNamespace(images=clean, labels=np.array([0, 1, 0, 1, 0, 1]))
    challenge = SimpleNamespace(index=np.array([4, 5]), goal=np.array([1, 1]), images=clean[[4, 5]] + 50)
    images = SimpleNamespace(train=SimpleNamespace(images=clean), test=test, classes=("ant", "bee"))
    scene: Any = SimpleNamespace(
        poisoned=poisoned, images=images, challenge=challenge, attacked=np.array([True, False])
    )
    ((before, after, title),) = preview._training(scene)
    assert (before[0, 0, 0], after[0, 0, 0], title) == (2, 102, "poison\nant as bee")
    assert [(before[0, 0, 0], after[0, 0, 0], title) for before, after, title in preview._challenge(scene)] == [
        (4, 54, "test\nant to be bee"),
        (5, 55, "bystander\nbee"),
    ]
