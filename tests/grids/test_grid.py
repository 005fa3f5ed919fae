from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bdbench import BdbenchError, Detector, Mitigation, Tools, TrainingView, leaderboard
from bdbench.cli import cli
from bdbench.components import configs, sources
from bdbench.grids import grid
from bdbench.grids.board import Board
from bdbench.leaderboard.coverage import made_by_other_code
from bdbench.registry.plugins import Plugin, Registration, installed
from bdbench.storage import record
from tests.conftest import TINY, TINY_DATAMODEL

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


ONE = TOML.replace('"random", "low-loss"', '"random"').replace('"none", ', "").replace("[0.04, 0.06]", "0.04")


def other_code(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """Let a component have other code than what there was."""
    component, code = type(installed().component(kind, name)), sources.own_code
    monkeypatch.setattr(sources, "own_code", lambda c: "other" if c is component else code(c))


def test_a_list_in_attacks_is_a_cascade_which_is_stale_when_one_of_its_attackers_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '["blend:rate=0.04", {name = "badnets", rate = [0.04, 0.06], target = 1}]'
    file = made(tmp_path / "board", ONE.replace('{ name = "badnets", rate = 0.04, size = 2 }', entry))
    asked = grid.read(file)
    assert [[part.rate for part in attack.attacks] for attack in asked.attacks] == [[0.04, 0.04], [0.04, 0.06]]  # type: ignore[attr-defined]
    spec = configs.spec(asked.attacks[0].config())
    assert asked.only([f"attack={spec}"]).attacks == asked.attacks[:1]
    assert run(file, "--only", f"attack={spec}", "--seeds", "0").exit_code == 0
    board, (job, *_) = Board.read(file.parent), asked.jobs()
    assert board.state(job, job.defenses[0]) == "recorded" and made_by_other_code(board) == []
    other_code(monkeypatch, "attack", "badnets")
    assert board.state(job, job.defenses[0]) == "stale"
    (line,) = made_by_other_code(board)
    assert line.endswith("seeds 0 were made by other code of the attack than today's")
    leaderboard.build(file.parent)
    (row, *_) = pd.read_csv(file.parent / "table.csv").itertuples()
    assert row.attack == "cascade"


@pytest.mark.parametrize(("kind", "name"), [("defense", "random"), ("attack", "badnets"), ("model", "convnet")])
def test_what_other_code_made_is_stale_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    file = made(tmp_path / "board", ONE)
    assert run(file).exit_code == 0
    records = tmp_path / "board" / "records"
    before = {path.name for path in records.iterdir()}
    # Other records of the same names, which are of another cell or a stranger's, are left alone.
    data = json.loads(next(records.glob("*-s0-*")).read_text())
    data["config"]["attack"]["rate"], data["id"] = 0.07, f"{data['id'][:-8]}00000000"
    (records / f"{data['id']}.json").write_text(record.text(data))
    other_code(monkeypatch, kind, name)
    planned = run(file, "--dry-run")
    (row,) = (line for line in planned.stdout.splitlines() if "random" in line)
    assert [cell.strip() for cell in row.split("│")][5:9] == ["-", "0-1", "-", "-"]
    assert (
        "0 cells are recorded, 2 are to run" in planned.stdout
        and "stale: made by other code or files" in planned.stdout
    )
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(tmp_path / "board")
    assert {r["config"]["code"][kind] == "other" for r in board.records.values() if r["seed"] == 0} == {True, False}
    assert len(board.records) == 3 and f"{data['id']}.json" in board.records
    assert len(before & board.records.keys()) == 1
    assert "1 cells are recorded, 1 are to run" in run(file, "--dry-run").stdout


def test_a_cell_is_stale_when_a_file_that_it_read_holds_something_else(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("L", (8, 8), 200).save(picture)
    entry = f'{{ name = "blend", rate = 0.04, pattern = "{picture}" }}'
    file = made(tmp_path / "board", ONE.replace('{ name = "badnets", rate = 0.04, size = 2 }', entry))
    assert run(file, "--seeds", "0").exit_code == 0
    (job,) = grid.read(file).jobs([0])
    (defense,) = job.defenses
    assert Board.read(file.parent).state(job, defense) == "recorded"
    picture.rename(tmp_path / "elsewhere.png")
    assert Board.read(file.parent).state(job, defense) == "recorded"
    Image.new("L", (8, 8), 100).save(picture)
    assert Board.read(file.parent).state(job, defense) == "stale"
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(file.parent)
    assert board.state(job, defense) == "recorded" and len(board.records) == 1


def test_a_cell_is_stale_when_its_data_are_others(tmp_path: Path) -> None:
    """The same grid below two data roots, or after a picture was replaced: two rows, and no board calls both one."""
    root = tmp_path / "root"
    for part, count in (("train", 40), ("test", 10)):
        for label, grey in (("dark", 60), ("light", 180)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), grey + i).save(folder / f"{i}.png")
    text = ONE.replace(TINY["dataset"], "imagefolder").replace("0.04", "0.1")
    file, there = made(tmp_path / "board", text), ("--data-root", str(root))
    assert run(file, "--seeds", "0", *there).exit_code == 0
    (old,) = Board.read(file.parent).records.values()
    assert "1 cells are recorded, 1 are to run" in run(file, *there, "--dry-run").stdout
    # In the training part files count by name and size, in the test part by their pixels.
    Image.new("L", (8, 8), 7).save(root / "test" / "dark" / "3.png")
    planned = run(file, *there, "--dry-run")
    assert "0 cells are recorded, 2 are to run" in planned.stdout
    assert "or of other data, and run again" in planned.stdout
    # Where the data are not, nothing can be told of them.
    assert "1 cells are recorded, 1 are to run" in run(file, "--dry-run").stdout
    assert run(file, "--seeds", "0", *there).exit_code == 0
    (new,) = Board.read(file.parent).records.values()
    assert new["config"]["data"]["source"] != old["config"]["data"]["source"]
    assert "1 cells are recorded, 1 are to run" in run(file, *there, "--dry-run").stdout


def test_a_stale_cell_that_fails_keeps_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "board", ONE)
    assert run(file, "--seeds", "0").exit_code == 0
    other_code(monkeypatch, "defense", "random")
    (job,) = grid.read(file).jobs([0])
    Board(tmp_path / "board").fail(job.config(job.defenses[0]), 0, "no luck")
    board = Board.read(tmp_path / "board")
    assert board.state(job, job.defenses[0]) == "failed" and len(board.records) == 1
    assert board.pending([job]) == [job]


def test_a_plan_cuts_no_name_off_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = run(made(tmp_path / "board"), "--dry-run").stdout
    cells = "".join("".join(line.split("│")[3:4]).strip() for line in shown.splitlines())
    assert "…" not in shown and "badnets:rate=0.04,size=2" in cells.replace(" ", "")


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


MOMENTS = 20
_KILLED = f"""
datasets = ["{TINY["dataset"]}"]
models = ["{TINY["model"]}"]
attacks = ["none", "badnets:rate=0.05"]
defenses = ["random", "spectral", "{TINY_DATAMODEL}"]
seeds = "0-1"
"""


def _grid(folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "bdbench", "grid", str(folder / "board" / "grid.toml"),
        "--device", "cpu", "--out", str(folder / "runs"),
        "--threads", "1",  # as many as are free would be other ones in the second of two runs, and other sums
    ]  # fmt: skip


def _numbers(folder: Path) -> str:
    """The table without what is measured anew in every run: times and memory."""
    leaderboard.build(folder / "board")
    table = pd.read_csv(folder / "board" / "table.csv")
    anew = [name for name in table if name.endswith("_seconds")]
    return table.drop(columns=[*anew, "times_victim", "peak_memory_mb"]).to_csv()


def _done(folder: Path) -> dict[Path, int]:
    """The finished stages, with the time each was written."""
    return {p: p.stat().st_mtime_ns for p in (folder / "runs" / ".stages").glob("[0-9a-f]*/[0-9a-f]*/meta.json")}


def _kill(folder: Path, stages: int, seconds: float) -> None:
    """Start a grid, and kill it so many seconds after so many of its stages were finished."""
    process = subprocess.Popen(_grid(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(_done(folder)) < stages:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(seconds)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The table of a grid that nobody stopped, and the number of its stages."""
    folder = tmp_path_factory.mktemp("whole")
    made(folder / "board", _KILLED)
    subprocess.run(_grid(folder), check=True, capture_output=True)
    return _numbers(folder), len(_done(folder))


@pytest.mark.parametrize("moment", [0, *(pytest.param(m, marks=pytest.mark.slow) for m in range(1, MOMENTS))])
def test_killed_at_a_random_moment_and_started_again_it_ends_the_same(
    whole: tuple[str, int], tmp_path: Path, moment: int
) -> None:
    table, stages = whole
    made(tmp_path / "board", _KILLED)
    rng = random.Random(moment)
    _kill(tmp_path, rng.randrange(stages - 4), rng.uniform(0, 0.1))
    done = _done(tmp_path)
    assert len(done) < stages
    subprocess.run(_grid(tmp_path), check=True, capture_output=True)
    assert {p: t for p, t in _done(tmp_path).items() if p in done} == done
    assert len(_done(tmp_path)) == stages
    for file in (tmp_path / "board" / "records").glob("*.json"):
        record.validate(json.loads(file.read_text()))
    assert _numbers(tmp_path) == table
