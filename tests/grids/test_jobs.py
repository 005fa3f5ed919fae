"""Jobs that several processes share, and cells that end the process they run in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bdbench
from bdbench import Metric
from bdbench.grids import engines, grid
from bdbench.grids.board import Board
from bdbench.grids.engines import Workplace
from bdbench.grids.jobs import _Work
from bdbench.progress import Silent
from bdbench.registry.plugins import Plugin, Registration, installed
from bdbench.storage.claims import TRIES, attempt
from tests.grids.test_grid import TOML, made, run
from tests.records import keep
from tests.records import made as record
from tests.test_experiment import numbers

SMALL = TOML.replace("[0.04, 0.06]", "0.04").replace('"0-1"', '"0"')


def place(folder: Path) -> Workplace:
    return Workplace(folder / "board", folder / "runs", device="cpu", threads=1)


def records(folder: Path) -> dict[str, Any]:
    return {name: numbers(data) for name, data in Board.read(folder / "board").records.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = list(engines.local(grid.read(made(folder / "board", SMALL)).jobs(), place(folder), Silent()))
    assert [(d.records, d.errors, d.elsewhere) for d in done] == [(2, (), 0)] * 2
    return folder


def test_two_processes_on_one_grid_do_every_cell_once(alone: Path, tmp_path: Path) -> None:
    file = made(tmp_path / "board", SMALL)
    command = [sys.executable, "-m", "bdbench", "grid", str(file), "--device=cpu", "--threads=1"]
    command.append(f"--out={tmp_path / 'runs'}")
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    own = [sum(map(int, re.findall(r": (\d) of \d cells recorded", text))) for text in said]
    assert sum(own) == 4
    assert records(tmp_path) == records(alone)
    assert not list((tmp_path / "board" / ".claims").iterdir())


def test_cells_of_others_are_left_to_them_and_done_if_they_die(alone: Path, tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path / "board", SMALL)).jobs()
    board, (first, second) = Board(tmp_path / "board"), jobs
    with attempt(board.claim_of(first), ""), attempt(board.claim_of(second, second.defenses[0]), ""):
        ours = engines.carry_out(first, place(tmp_path), wait=False)
        assert (ours.records, ours.left) == (0, first.defenses)
        ours = engines.carry_out(second, place(tmp_path), wait=False)
        assert (ours.records, ours.left) == (1, second.defenses[:1])
    done = list(engines.local(jobs, place(tmp_path), Silent()))
    assert [(d.records, d.elsewhere, d.left) for d in done] == [(2, 0, ()), (1, 1, ())]
    assert records(tmp_path) == records(alone)


def dead(path: Path, code: str) -> None:
    """What processes leave that died at a piece of work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {"code": code, "died": TRIES, "crashed": TRIES - 1, "starved": 0, "trace": ""}
    path.write_text(json.dumps(held) + "\nFatal Python error: Segmentation fault\n\n  File 'x.py', line 7 in score\n")


def test_a_cell_that_ends_its_process_again_and_again_is_recorded_as_failed(tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path / "board", SMALL)).jobs()
    board, (first, second) = Board(tmp_path / "board"), jobs
    works = [_Work(job, place(tmp_path), board, Silent(), None, True) for job in jobs]
    dead(board.claim_of(first), works[0]._code())
    dead(board.claim_of(second, second.defenses[0]), works[1]._code(second.defenses[0]))
    for _ in range(2):
        done = list(engines.local(board.pending(jobs), place(tmp_path), Silent()))
        assert [len(d.errors) for d in done] == [2, 1]
        assert f"crashed {TRIES} times (Fatal Python error: Segmentation fault)" in done[1].errors[0][1]
        assert all("line 7 in score" in f.read_text() for f in (tmp_path / "board" / "failed").glob("*.txt"))
        board = Board.read(tmp_path / "board")
        assert len(board.failed) == 3 and len(board.records) == 1
    board.claim_of(first).unlink()
    dead(board.claim_of(second, second.defenses[0]), "other code")
    done = list(engines.local(board.pending(jobs), place(tmp_path), Silent()))
    assert [(d.records, d.errors) for d in done] == [(2, ()), (1, ())]
    assert not list((tmp_path / "board" / "failed").iterdir())


def test_a_failure_that_cannot_be_kept_ends_no_grid(tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path / "board", SMALL.replace("size = 2", "size = 12"))).jobs()
    (tmp_path / "board" / "failed").write_text("in the way")
    done = list(engines.local(jobs, place(tmp_path), Silent()))
    assert [d.records for d in done] == [2, 0]
    assert all("does not fit" in text and "(which could not be kept: " in text for _, text in done[1].errors)


def test_a_record_that_cannot_be_kept_is_its_cells_failure_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Board.add

    def broken(self: Board, data: Any) -> None:
        if data["config"]["defense"]["name"] == "random":
            raise OSError(28, "No space left on device")
        add(self, data)

    monkeypatch.setattr(Board, "add", broken)
    jobs = grid.read(made(tmp_path / "board", SMALL)).only(["attack=none"]).jobs()
    (done,) = engines.local(jobs, place(tmp_path), Silent())
    assert done.records == 1 and "No space left" in done.errors[0][1]


def test_a_run_that_is_made_again_leaves_alone_what_else_lies_in_its_folder(tiny: dict[str, Any]) -> None:
    folder = tiny["out"] / bdbench.run(defense="random", **tiny).id
    (folder / "report.html").write_text("mine")
    before = (folder / "record.json").stat().st_ino
    bdbench.run(defense="random", **tiny)
    assert (folder / "record.json").stat().st_ino != before
    assert {path.name for path in folder.iterdir()} == {"record.json", "scores.npz", "report.html"}


def test_a_metric_that_fails_is_named_in_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, known = Plugin("bad", "theirs", "1"), installed()
    known._all("metric")
    bad = Registration("bad", Metric("bad", lambda measured: 1 / 0), plugin)
    monkeypatch.setitem(known._registered["metric"], "bad", [bad])
    monkeypatch.setattr(known, "found", [*known.found, plugin])
    done = run(made(tmp_path / "board", SMALL), "--only", "attack=none", "--only", "defense=random")
    assert done.exit_code == 0
    assert done.stderr.count("warning: plugin 'bad' of theirs is not usable: metric bad: ZeroDivisionError") == 1


CRASHING = """
import ctypes
from dataclasses import dataclass
from bdbench import Detector, hookimpl

@dataclass(frozen=True, kw_only=True)
class Crashes(Detector):
    "Crashes."
    name = "crashes"

    def score(self, view, tools):
        ctypes.string_at(0)

@hookimpl
def bdbench_register_defenses():
    return [Crashes]
"""


@pytest.mark.slow
def test_a_component_that_crashes_takes_no_grid_with_it_for_ever(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "bdbench_crash-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "bdbench_crash.py").write_text(CRASHING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bdbench-crash\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[bdbench]\ncrash = bdbench_crash\n")
    file = made(tmp_path / "board", SMALL.replace('"random"', '"crashes"'))
    program = f"import sys; sys.path.insert(0, {str(site)!r}); from bdbench.__main__ import main; main()"
    command = [sys.executable, "-c", program, "grid", str(file), "--only", "attack=none", "--device=cpu"]
    for _ in range(TRIES):
        assert subprocess.run([*command, f"--out={tmp_path / 'runs'}"], capture_output=True).returncode < 0
    last = subprocess.run([*command, f"--out={tmp_path / 'runs'}"], capture_output=True, text=True)
    assert last.returncode == 1 and "crashed 3 times (Fatal Python error: Segmentation fault)" in last.stderr
    assert [r["config"]["defense"]["name"] for r in Board.read(tmp_path / "board").records.values()] == ["low-loss"]


def test_a_cell_is_prepared_as_its_job_and_place_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def cell(**told: Any) -> SimpleNamespace:
        asked.update(told)
        return SimpleNamespace(prepare=lambda defenses: None)

    monkeypatch.setattr("bdbench.experiment.cell", cell)
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    where = replace(place(tmp_path), precision="bfloat16")
    board = Board(tmp_path / "board")
    job = replace(job, budget=0.2, reserve=0.1, floor=True)
    _Work(job, where, board, Silent(), None, True)._prepared(job.defenses)
    told = {"budget": 0.2, "reserve": 0.1, "floor": True, "precision": "bfloat16", "device": "cpu", "threads": 1}
    assert told.items() <= asked.items()
    assert asked["seed"] == job.seed and asked["attack"] == job.attack and asked["out"] == tmp_path / "runs"


def test_cells_of_two_reserves_have_locks_of_their_own(tmp_path: Path) -> None:
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    board, other = Board(tmp_path / "board"), replace(job, reserve=0.1)
    for defense in (None, job.defenses[0]):
        assert board.claim_of(job, defense) != board.claim_of(other, defense)


def test_a_failure_of_an_earlier_start_settles_nothing(tmp_path: Path) -> None:
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    board, defense = Board(tmp_path / "board"), job.defenses[0]
    board.fail(job.config(defense), job.seed, "an error")
    now = time.time()
    assert board.settled(job, defense, now - 10) == "failed" and board.settled(job, defense, now + 10) is None


def test_a_file_that_was_mended_is_tried_again(tmp_path: Path) -> None:
    pattern = tmp_path / "pattern.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pattern)
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    job = replace(job, attack=installed().component("attack", f"blend:pattern={pattern}"))
    known = []
    for grey in (0, 9):
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(pattern)
        work = _Work(job, place(tmp_path), Board(tmp_path / "board"), Silent(), None, True)
        known.append((work._code(), work._code(job.defenses[0])))
    assert not set(known[0]) & set(known[1])


def test_what_defenses_share_is_known_whichever_of_them_is_first(tmp_path: Path) -> None:
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    matrix = tmp_path / "matrix.npy"
    np.save(matrix, np.zeros(1))
    reads = installed().component("defense", f"datamodel:matrix={matrix}")
    assert job.files(reads) and not job.files(None)
    board = Board(tmp_path / "board")
    codes = {
        _Work(replace(job, defenses=order), place(tmp_path), board, Silent(), None, True)._code()
        for order in ((reads, *job.defenses), (*job.defenses, reads))
    }
    assert len(codes) == 1


def test_what_a_grid_may_take_counts_what_a_set_shares_once(tmp_path: Path) -> None:
    (job,) = grid.read(made(tmp_path / "board", SMALL)).only(["attack=badnets"]).jobs()
    parts = {kind: getattr(job, kind).config() for kind in ("dataset", "model", "attack")}
    for seed, defense in enumerate(job.defenses):
        # Shared .1 + 2, its own 3.
        keep(tmp_path / "board", record(seed, parts={**parts, "defense": defense.config()}))
    board = Board.read(tmp_path / "board")
    assert board.estimate([job]) == (pytest.approx(2.1 + 3 * len(job.defenses)), 0)
    other = replace(job, model=installed().component("model", "convnet:width=5"))
    assert board.estimate([other]) == (0, len(job.defenses))
