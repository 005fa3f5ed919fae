"""Grids as they are read, planned and run; what in one is stale and what kills leave: test_stale.py, test_killed.py."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bdbench import BdbenchError, Detector, Mitigation, Tools, TrainingView, leaderboard
from bdbench.cli import cli
from bdbench.grids import grid
from bdbench.grids.board import Board
from bdbench.registry.plugins import Plugin, Registration, installed
from tests.conftest import TINY

TOML = f"""
datasets = ["{TINY["dataset"]}"]
models = ["{TINY["model"]}"]
attacks = ["none", {{ name = "badnets", rate = [0.04, 0.06], size = 2 }}]
defenses = ["random", "low-loss"]
seeds = "0-1"
"""


def made(folder: Path, text: str = TOML) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grid.toml").write_text(text)
    return folder / "grid.toml"


def run(file: Path, *options: str) -> Result:
    out = file.parent.parent / "runs"
    return CliRunner().invoke(cli, ["grid", str(file), "--device", "cpu", "--out", str(out), *options])


def test_a_list_in_a_table_is_a_component_for_each_value(tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path)).jobs()
    assert len(jobs) == 6
    attacks = {(j.attack.name, j.attack.config().get("rate"), j.attack.config().get("size")) for j in jobs}
    assert attacks == {("none", None, None), ("badnets", 0.04, 2), ("badnets", 0.06, 2)}
    assert all([d.name for d in j.defenses] == ["random", "low-loss"] for j in jobs)
    assert [j.seed for j in jobs] == [0, 0, 0, 1, 1, 1]


def test_shares_may_be_written_as_text(tmp_path: Path) -> None:
    asked = grid.read(made(tmp_path, f'{TOML}budget = "0.2"\nreserve = "0.1"\n'))
    assert {(job.budget, job.reserve) for job in asked.jobs()} == {(0.2, 0.1)}


@pytest.mark.parametrize("text", ["0-4", "0,2,5-7", "3"])
def test_seeds_are_read_as_they_are_shown(text: str) -> None:
    assert grid.show_seeds(grid.read_seeds(text)) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('seeds = "0-1"', 'seeds = "4-1"', "seeds='4-1' is not allowed"),
        ('seeds = "0-1"', 'seeds = "0-99999999999"', "expected at most 10000 of them"),
        (
            'seeds = "0-1"',
            'seeds = "0"\n[[notes]]\nattack = "none"\ndataset = 5\ntext = "x"',
            "is no note: expected texts",
        ),
        ('seeds = "0-1"', f'seeds = "{"9" * 5000}"', "seeds='9999.* is not allowed"),
        ('seeds = "0-1"', "budget = 1.5", "budget=1.5 is not allowed"),
        ("attacks", "atacks", "unknown key in .*: did you mean 'attacks'"),
        ('"low-loss"', '"lowloss"', "unknown defense 'lowloss': did you mean 'low-loss'"),
        ('"low-loss"', '"random"', "defense 'random' is twice in the grid"),
        ("size = 2", "sise = 2", "unknown parameter of attack 'badnets' 'sise'"),
        ('["random", "low-loss"]', "[]", "defenses=\\[\\] is not allowed in a grid"),
        ('"none"', "3", "3 is no attack: expected a string, or a table"),
        ("seeds =", "seeds", "cannot read the grid"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    result = run(made(tmp_path / "board", TOML.replace(old, new)), "--dry-run")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "runs").exists()


def test_only_is_by_kind_name_and_parameters(tmp_path: Path) -> None:
    whole = grid.read(made(tmp_path))
    assert {a.name for a in whole.only(["attack=badnets"]).attacks} == {"badnets"}
    assert len(whole.only(["attack=badnets:rate=0.04"]).attacks) == 1
    assert len(whole.only(["attack=badnets:rate=0.04", "attack=none", "defense=random"]).jobs()) == 4
    with pytest.raises(BdbenchError, match=r"unknown attack in this grid 'badnets:rate=0.07'"):
        whole.only(["attack=badnets:rate=0.07"])
    with pytest.raises(BdbenchError, match="cannot read 'rate=0.04': expected KIND=SPEC"):
        whole.only(["rate=0.04"])


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path: Path) -> None:
    result = run(made(tmp_path / "board"), "--dry-run")
    assert result.exit_code == 0
    assert "0 cells are recorded, 12 are to run, on 6 poisoned sets" in result.stdout
    assert [p.name for p in (tmp_path / "board").iterdir()] == ["grid.toml"] and not (tmp_path / "runs").exists()


def test_a_grid_fills_a_leaderboard_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "board")
    first = run(file, "--seeds", "1", "--only", "attack=none")
    assert first.exit_code == 0, first.output
    assert "[1/1]" in first.stderr and "seed 1: 2 of 2 cells recorded" in first.stderr
    records = tmp_path / "board" / "records"
    assert len(list(records.glob("*.json"))) == 2
    assert {json.loads(f.read_text())["id"] for f in records.glob("*.json")} == {f.stem for f in records.glob("*.json")}
    planned = run(file, "--dry-run").stdout
    assert "2 cells are recorded, 10 are to run, on 5 poisoned sets: at most about 0:00:" in planned
    assert run(file).exit_code == 0
    assert len(list(records.glob("*.json"))) == 12
    monkeypatch.setattr("bdbench.experiment.cell", lambda **options: pytest.fail("ran again"))
    again = run(file)
    assert again.exit_code == 0 and "12 cells are recorded, 0 are to run" in again.stdout
    assert "nothing to do" in again.stdout
    leaderboard.build(tmp_path / "board")
    assert leaderboard.stale(tmp_path / "board") == []
    table = pd.read_csv(tmp_path / "board" / "table.csv")
    assert table["seeds"].tolist() == [2] * 6 and table["not_run"].isna().all()


@pytest.mark.parametrize("asked", [(), ("--only", "dataset=imagefolder")])
def test_a_data_set_that_is_not_there_is_a_line_before_any_cell(tmp_path: Path, asked: tuple[str, ...]) -> None:
    text = TOML.replace("datasets = [", 'datasets = ["imagefolder", ')
    result = run(made(tmp_path / "board", text), *asked)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("bdbench: dataset 'imagefolder' needs --data-root: expected a folder")
    assert line.endswith(f"; without it: --only dataset={TINY['dataset']}") == (not asked)
    assert [p.name for p in (tmp_path / "board").iterdir()] == ["grid.toml"] and not (tmp_path / "runs").exists()
    # Where it is not asked for, the others run.
    assert run(tmp_path / "board" / "grid.toml", "--only", f"dataset={TINY['dataset']}", "--seeds", "0").exit_code == 0


def _cells(shown: str) -> list[list[str]]:
    """The lines of a plan's table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]


def test_a_plan_cuts_no_name_off_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = run(made(tmp_path / "board"), "--dry-run").stdout
    attacks = "".join(row[0] for row in _cells(shown))
    assert "…" not in shown and "badnets:rate=0.04,size=2" in attacks
    title = " ".join(shown.split("┏")[0].split())
    assert title == "seeds of each cell, digits:subset=300, convnet:epochs=2,width=4"


def test_a_plan_has_one_row_for_defenses_of_which_the_same_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    file = made(tmp_path / "board")
    assert run(file, "--seeds", "1", "--only", "attack=none", "--only", "defense=random").exit_code == 0
    attacks = ["badnets:rate=0.04,size=2", "badnets:rate=0.06,size=2"]
    assert _cells(run(file, "--dry-run").stdout) == [
        ["none", "random", "1", "0"],
        ["none", "low-loss", "-", "0-1"],
        *([attack, "random, low-loss", "-", "0-1"] for attack in attacks),
    ]
    # What is not the same in every row is told.
    two = TOML.replace("models = [", 'models = ["resnet9", ')
    shown = _cells(run(made(tmp_path / "other", two), "--dry-run").stdout)
    assert {row[1] for row in shown} == {"resnet9", "convnet:epochs=2,width=4"}
    assert {row[-1] for row in shown} == {"0-1"}


def test_what_does_not_apply_is_not_run_and_the_plan_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(installed().component("attack", "badnets")), "trains", True)
    file = made(tmp_path / "board")
    result = run(file, "--dry-run")
    assert "badnets:rate=0.04,size=2, low-loss is not run: the attacker trains the model" in result.stdout
    assert "0 cells are recorded, 4 are to run, on 2 poisoned sets" in result.stdout
    assert [job.attack.name for job in Board.read(tmp_path / "board").pending(grid.read(file).jobs())] == ["none"] * 2


def test_a_budget_belongs_to_the_cells_of_detectors_alone(tmp_path: Path) -> None:
    class Repairs(Mitigation):
        """Repairs."""

        name = "repairs"

        def repair(self, tools: Tools) -> Any:
            raise NotImplementedError

    (job, *_) = grid.read(made(tmp_path)).jobs()
    other = replace(job, budget=0.2)
    assert job.config(Repairs()) == other.config(Repairs())
    assert job.config(job.defenses[0]) != other.config(job.defenses[0])


@dataclass(frozen=True, kw_only=True)
class Fails(Detector):
    """Fails."""

    name = "fails"

    def score(self, view: TrainingView, tools: Tools) -> Any:
        raise ZeroDivisionError("no such luck\nsecond line")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> None:
    known = installed()._all("defense")
    monkeypatch.setitem(known, "fails", [Registration("fails", Fails, Plugin("made", "made", "1"))])


def test_a_failed_cell_is_recorded_and_the_rest_goes_on(tmp_path: Path, fails: None) -> None:
    text = TOML.replace('"random", "low-loss"', '"fails", "random"')
    file = made(tmp_path / "board", text)
    result = run(file, "--only", "attack=badnets:rate=0.04", "--seeds", "0")
    assert result.exit_code == 1
    error = "defense 'fails' of made: ZeroDivisionError: no such luck"
    assert f"fails failed: {error}\n" in result.stderr
    assert "1 cells failed" in result.stderr and "Traceback" not in result.output
    board = Board.read(tmp_path / "board")
    assert [r["config"]["defense"]["name"] for r in board.records.values()] == ["random"]
    assert list(board.failed.values()) == [error]
    (trace,) = (tmp_path / "board" / "failed").glob("*.txt")
    assert "Traceback" in trace.read_text() and "second line" in trace.read_text()
    leaderboard.build(tmp_path / "board")
    readme = (tmp_path / "board" / "README.md").read_text()
    assert f"fails (seeds 1; seed 0: {error}), random (seeds 1)" in readme
    assert "badnets rate=0.06: every defense (seeds 0-1)" in readme
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Failed: seed 0: defense &#39;fails&#39; of made: ZeroDivisionError: no such luck." in page


def test_a_failure_that_all_defenses_share_is_that_of_each_and_is_forgotten_when_it_is_mended(tmp_path: Path) -> None:
    text = TOML.replace("size = 2", "size = 12")
    file = made(tmp_path / "board", text)
    result = run(file, "--only", "attack=badnets:rate=0.04", "--seeds", "0")
    assert result.exit_code == 1
    failed = Board.read(tmp_path / "board").failed
    assert len(failed) == 2 and all("does not fit images of 8 x 8" in error for error in failed.values())
    cell = next(f for f in (tmp_path / "board" / "failed").iterdir() if "random" in f.name)
    data = json.loads(cell.read_text())
    board = Board.read(tmp_path / "board")
    assert board.error(data["cell"], 0) is not None
    made_record = {"id": "x", "seed": 0, "config": data["cell"]}
    board.add(made_record)
    assert not cell.exists()
