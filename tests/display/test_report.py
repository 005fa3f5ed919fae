from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import PoisonedData, Reopened, ReportSection, Role
from bdbench.cli import cli
from bdbench.components import configs
from bdbench.display import report
from bdbench.registry.plugins import KINDS, installed
from bdbench.storage import record
from tests.conftest import TINY, Forget

HEADINGS = ["Before and after", "What the attack does", "Scores by role", "ROC and precision-recall"]


class Page(HTMLParser):
    """Headings, pictures, and everything a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self.fetched: list[str] = []
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heading = tag == "h2"
        values = dict(attrs)
        self.pictures += [values["src"] or ""] if tag == "img" else []
        self.fetched += [v for k, v in values.items() if k in ("src", "href") and v and not v.startswith("data:")]

    def handle_data(self, data: str) -> None:
        if self._heading:
            self.headings.append(data)
            self._heading = False


def made(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["report", str(folder), "--device", "cpu", *options])


def test_a_report_is_one_file_with_every_picture(run: Path) -> None:
    result = made(run)
    assert result.exit_code == 0, result.output
    text = (run / "report.html").read_text()
    page = Page(text)
    assert page.headings == [*HEADINGS, "The 50 most suspicious examples", "Cost", "The run"]
    assert len(page.pictures) == 6 and all(p.startswith("data:image/png;base64,") for p in page.pictures)
    assert page.fetched == []
    found = record.read(run)
    assert configs.command(found.config, found.seed) in text
    assert "what it assumes" in text and installed().component("defense", "spectral").assumption in unescape(text)
    flagged = re.search(r"trained on: (\d+) clean, (\d+) poison", text)
    assert flagged is not None and sum(map(int, flagged.groups())) == 50
    roles, scores = (np.load(run / "scores.npz")[k] for k in ("roles", "scores"))
    assert int(flagged[2]) == roles[np.argsort(-scores)[:50]].sum()


def test_the_control_has_no_curves_and_a_mitigation_no_scores(tmp_path: Path) -> None:
    control = bdbench.run(defense="low-loss", out=tmp_path, **{**TINY, "attack": "none"})
    made(tmp_path / control.id)
    page = Page((tmp_path / control.id / "report.html").read_text())
    assert page.headings == ["Before and after", "Scores by role", "The 50 most suspicious examples", "Cost", "The run"]


def test_a_mitigation_has_no_pictures_of_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.registry.plugins import Plugin, Registration

    monkeypatch.setitem(
        installed()._all("defense"), "forget", [Registration("forget", Forget, Plugin("made", "made", "1"))]
    )
    done = bdbench.run(defense=Forget(), out=tmp_path, **TINY)
    assert made(tmp_path / done.id).exit_code == 0
    headings = Page((tmp_path / done.id / "report.html").read_text()).headings
    assert headings == ["Before and after", "What the attack does", "Cost", "The run"]


@pytest.fixture
def drawing() -> Iterator[None]:
    """Plugins that draw: one a picture, the other nothing but an error."""

    class Draws:
        @bdbench.hookimpl
        def bdbench_report_sections(self, run: Reopened) -> list[ReportSection]:
            from matplotlib.figure import Figure

            return [ReportSection("Drawn for " + run.defense.name, Figure(), "A caption.")]

    class Fails:
        @bdbench.hookimpl
        def bdbench_report_sections(self, run: Reopened) -> Any:
            raise ZeroDivisionError

    for kind in KINDS:
        installed().registered(kind)
    plugins = {"tests:draws": Draws(), "tests:fails": Fails()}
    for name, plugin in plugins.items():
        installed().manager.register(plugin, name=name)
    yield
    for plugin in plugins.values():
        installed().manager.unregister(plugin)


def test_plugins_add_pictures_and_one_that_fails_costs_no_report(run: Path, drawing: None, tmp_path: Path) -> None:
    assert made(run, "--output", str(tmp_path / "out.html")).exit_code == 0
    headings = Page((tmp_path / "out.html").read_text()).headings
    assert headings[-2:] == ["Drawn for spectral", "The run"]


def test_the_verdict_is_about_the_backdoor(run: Path) -> None:
    found = record.read(run)

    def verdict(before: float | None, after: float | None) -> tuple[str, str]:
        changed = {
            # What a removal did is measured against the reference, whatever the victim does.
            "before": replace(found.before, attack_success_rate=0.5),
            "reference": replace(found.reference, attack_success_rate=before),
            "after": replace(found.after, attack_success_rate=after),
        }
        return report.verdict(replace(found, **changed))

    assert verdict(0.99, 0.03)[0] == "good" and "The backdoor is gone" in verdict(0.99, 0.03)[1]
    assert verdict(0.99, 0.3)[0] == "bad" and "weaker, but there" in verdict(0.99, 0.3)[1]
    assert verdict(0.99, 0.9)[0] == "bad" and "still there" in verdict(0.99, 0.9)[1]
    assert verdict(0.2, 0.1)[0] == "plain" and "did not work to begin with" in verdict(0.2, 0.1)[1]
    assert verdict(None, None)[0] == "plain" and "Nothing was attacked" in verdict(None, None)[1]


def test_the_report_of_a_run_that_removes_nothing(tmp_path: Path) -> None:
    scored = bdbench.run(defense="spectral", budget=0, **{**TINY, "out": tmp_path})
    assert report.verdict(scored) == ("plain", "Nothing was removed: the training examples were scored only.")
    assert made(tmp_path / scored.id).exit_code == 0
    assert Page((tmp_path / scored.id / "report.html").read_text()).headings[:3] == HEADINGS[1:]
    control = bdbench.run(defense="spectral", budget=0, **{**TINY, "out": tmp_path, "attack": "none"})
    assert "Nothing was removed" in report.verdict(control)[1]


def test_a_record_alone_needs_a_place_to_write(run: Path) -> None:
    result = made(run / "record.json")
    assert result.exit_code == 2 and "expected --output FILE" in result.stderr


def test_what_a_model_detector_says_is_right_or_wrong(run: Path) -> None:
    found = record.read(run)

    def verdict(flagged: bool, control: bool, targets: list[int], hit: bool | None) -> tuple[str, str]:
        judged = record.Judgement(3.0, flagged, targets, hit)
        return report.verdict(replace(found, verdict=judged, control=control, stage="model", after=None))

    assert verdict(True, False, [3], True) == (
        "good", "The model is called backdoored, with target 3; it is right. The targets that it names are right.",
    )  # fmt: skip
    assert verdict(True, True, [], None) == ("bad", "The model is called backdoored; it is wrong.")
    assert verdict(False, True, [], None)[0] == "good" and verdict(False, False, [], None)[0] == "bad"


def test_pairs_are_of_the_images_that_were_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the poisoned set has, and though it has not all of the clean images."""
    clean = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    index = np.array([4, 2, 0, 5])
    roles = np.array([Role.CLEAN, Role.POISON, Role.POISON, Role.CLEAN], np.int8)
    labels = np.zeros(4, np.int64)
    poisoned = PoisonedData(clean[index] + 100, labels, roles, labels, index=index)
    train = SimpleNamespace(images=clean)
    run: Any = SimpleNamespace(clean=SimpleNamespace(train=train, classes=("ant",)), poisoned=poisoned)
    drawn: list[Any] = []
    monkeypatch.setattr("bdbench.display.pictures.examples", lambda *given: drawn.append(given))
    (section,) = report._poisons(run)
    assert section.title == "What the attack does"
    before, after, _ = drawn[0]
    assert before[:, 0, 0, 0].tolist() == [2, 0] and after[:, 0, 0, 0].tolist() == [102, 100]


def test_what_scores_inputs_alone_and_what_removes_its_own_flags_are_told(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    small = {**TINY, "reserve": 0.0}
    inputs = out / bdbench.run(defense="scale-up", out=out, **small).id
    assert made(inputs).exit_code == 0
    text = (inputs / "report.html").read_text()
    assert "Nothing was refused: inputs were scored only" in text and "AUROC of inputs" in text
    own = out / bdbench.run(defense="spectral:oracle=true", out=out, **{**TINY, "budget": "auto"}).id
    assert made(own).exit_code == 0 and "Before and after" in Page((own / "report.html").read_text()).headings
