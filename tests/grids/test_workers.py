"""Several processes that share a grid: the records of one, whoever of them dies, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bdbench import BdbenchError
from bdbench.grids import engines, grid, workers
from bdbench.grids.board import Board
from bdbench.grids.workers import dealt, on_processes
from bdbench.progress import Silent
from tests.grids.test_engines import place, records
from tests.grids.test_grid import TOML, made, run
from tests.grids.test_killed import _done

WORK = workers._work


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The records of one process."""
    import torch

    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    done = list(engines.local(grid.read(made(folder / "board")).jobs(), place(folder), Silent()))
    torch.set_num_threads(before)
    assert not any(d.errors for d in done)
    return records(folder)


def test_two_processes_give_the_records_of_one_though_one_is_killed(alone: dict[str, Any], tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path / "board")).jobs()
    outcomes = on_processes(2)(jobs, place(tmp_path), Silent())
    done = [next(outcomes)]
    first = {child.pid for child in multiprocessing.active_children()}
    assert len(first) == 2
    os.kill(min(pid for pid in first if pid), signal.SIGKILL)
    done += list(outcomes)
    assert sorted(map(str, (d.job for d in done))) == sorted(map(str, jobs))
    assert not any(d.errors for d in done)
    assert records(tmp_path) == alone


def test_fewer_jobs_than_processes_are_dealt_out(tmp_path: Path) -> None:
    jobs = grid.read(made(tmp_path / "board")).jobs()
    assert dealt(jobs, 1) == jobs and dealt(jobs, 3) == jobs
    two = dealt(jobs[:2], 4)
    assert [(job.attack, [d.name for d in job.defenses]) for job in two] == [
        (jobs[0].attack, ["random"]),
        (jobs[1].attack, ["random"]),
        (jobs[0].attack, ["low-loss"]),
        (jobs[1].attack, ["low-loss"]),
    ]


def test_the_command_shares_its_cells_and_ends_with_the_error_of_one(tmp_path: Path) -> None:
    # Digits have 8 x 8 pixels, too few for a patch of 9.
    text = TOML.replace("size = 2", "size = 9").replace("[0.04, 0.06]", "0.06")
    result = run(made(tmp_path / "board", text), "--workers", "2", "--seeds", "0")
    assert result.exit_code == 1
    assert "bdbench: 2 cells failed" in result.stderr
    assert result.stderr.count("1 of 1 cells recorded") == 2
    assert {data["environment"]["threads"] for data in Board.read(tmp_path / "board").records.values()} == {1}


def test_workers_are_for_this_machine_alone(tmp_path: Path) -> None:
    result = run(made(tmp_path / "board"), "--workers", "2", "--engine", "ray")
    assert result.exit_code == 2
    assert "--workers 2 is not allowed with --engine ray: expected --engine local" in result.stderr


def test_processes_that_always_die_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = grid.read(made(tmp_path / "board")).jobs()[:2]
    monkeypatch.setattr("bdbench.grids.workers._work", _die)
    with pytest.raises(BdbenchError, match="--workers 2: 8 died in a row, for want of memory perhaps: expected fewer"):
        list(on_processes(2)(jobs, place(tmp_path), Silent()))


def _die(*_: Any) -> None:
    os._exit(9)


def test_work_that_ends_every_process_is_a_failure_of_its_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = grid.read(made(tmp_path / "board")).only(["defense=random"]).jobs([0])
    assert [job.attack.name for job in jobs] == ["none", "badnets", "badnets"]
    monkeypatch.setattr("bdbench.grids.workers._work", _crash_at_badnets)
    done = list(on_processes(2)(jobs, place(tmp_path), Silent()))
    assert sorted((d.job.attack.name, d.records) for d in done) == [("badnets", 0), ("badnets", 0), ("none", 1)]
    told = [error for d in done for _, error in d.errors]
    assert len(told) == 2 and all("crashed 3 times (Fatal Python error: Aborted)" in error for error in told)


def _crash_at_badnets(connection: Any, place: engines.Workplace, seat: int) -> None:
    from bdbench.grids.jobs import _Work

    prepared = _Work._prepared

    def crash(self: _Work, defenses: Any) -> Any:
        return os.abort() if self.job.attack.name == "badnets" else prepared(self, defenses)

    _Work._prepared = crash  # type: ignore[method-assign]
    WORK(connection, place, seat)


def test_each_process_has_a_seat_and_who_comes_for_a_dead_one_has_that_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = grid.read(made(tmp_path / "board")).only(["defense=random"]).jobs([0])
    monkeypatch.setattr("bdbench.grids.workers._work", _die_once_at_seat_1)
    assert sum(done.records for done in on_processes(2)(jobs, place(tmp_path), Silent())) == 3
    assert sorted(file.name.partition("-")[0] for file in tmp_path.rglob("*-seat")) == ["0", "1", "1"]


def _die_once_at_seat_1(connection: Any, place: engines.Workplace, seat: int) -> None:
    first = not [*place.board.rglob("1-*-seat")]
    (place.board / f"{seat}-{os.getpid()}-seat").touch()
    if seat == 1 and first:
        os._exit(9)
    WORK(connection, place, seat)


@pytest.mark.parametrize(
    ("device", "named"), [("auto", ["5", "6", "7", "5"]), ("cuda", ["5", "6", "7", "5"]), ("cpu", [])]
)
def test_seats_take_the_gpus_in_turn_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, named: list[str]
) -> None:
    found: list[str] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("bdbench.grids.workers._follow", lambda _: None)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(sentinel=0))
    for seat in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
        here, there = multiprocessing.Pipe()
        there.close()
        WORK(here, replace(place(tmp_path), device=device), seat)
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == (named or ["5,6,7"] * 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_when_the_first_process_ends(tmp_path: Path, number: signal.Signals) -> None:
    text = TOML.replace('"low-loss"', '"datamodel:models=2000"')
    process = subprocess.Popen(
        [
            sys.executable, "-m", "bdbench", "grid", str(made(tmp_path / "board", text)), "--workers", "2",
            "--device", "cpu", "--out", str(tmp_path / "runs"),
        ],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _wait(lambda: len(_done(tmp_path)) >= 2)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    _, told = process.communicate(timeout=30)
    _wait(lambda: not _group(process.pid))
    assert "Traceback" not in told
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert told.strip().splitlines()[-1].startswith("bdbench: stopped: records are in ")
        # Asked to end, they leave no sign of a death.
        assert not [*(tmp_path / "board").rglob("*.lock")]


def _group(leader: int) -> list[int]:
    """The processes of a session that are there, but for the dead that nobody has waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _wait(until: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)
