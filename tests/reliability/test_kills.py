"""SIGKILL at random moments, of one process and of one of two: nothing finished is lost, no number is another."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.reliability.conftest import Whole, board_records, new_grid, records, stages
from tests.reliability.work import begun, cell, count, done, grid

pytestmark = pytest.mark.slow


def test_a_cell_that_is_killed_and_started_again_ends_the_same(
    whole_cell: Whole, tmp_path: Path, chance: random.Random, tally: dict[str, int]
) -> None:
    tally |= {"kills": 0, "stages kept": 0}
    for number in range(count("CELL_KILLS", 10)):
        out = tmp_path / str(number)
        process = begun(cell, out)
        time.sleep(chance.uniform(0, whole_cell.seconds))
        process.kill()
        process.join()
        tally["kills"] += process.exitcode == -9
        kept = stages(out)
        for run, data in records(out).items():
            assert data == whole_cell.records[run]
        assert done(cell, out) == 0
        again = stages(out)
        assert kept.items() <= again.items() and again.keys() == whole_cell.stages.keys()
        assert records(out) == whole_cell.records
        tally["stages kept"] += len(kept)


def test_a_grid_that_is_killed_again_and_again_ends_the_same(
    whole_grid: Whole, tmp_path: Path, chance: random.Random, tally: dict[str, int]
) -> None:
    """As long as it got further between two kills; otherwise a cell is given up after so many, and rightly so."""
    tally |= {"grids": 0, "kills": 0, "stages kept": 0}
    for number in range(count("GRIDS", 2)):
        folder, killed = new_grid(tmp_path / str(number)), 0
        while killed < count("KILLS_A_GRID", 3):
            before = stages(folder / "runs")
            process = begun(grid, folder)
            process.join(chance.uniform(0.3, 1) * whole_grid.seconds / 2)
            process.kill()
            process.join()
            killed += process.exitcode == -9
            after = stages(folder / "runs")
            assert before.items() <= after.items()
            for name, data in board_records(folder).items():
                assert data == whole_grid.records[name]
            if process.exitcode == 0:
                break
        tally["stages kept"] += len(stages(folder / "runs"))
        assert done(grid, folder) == 0
        assert board_records(folder) == whole_grid.records
        assert stages(folder / "runs").keys() == whole_grid.stages.keys()
        tally["grids"] += 1
        tally["kills"] += killed


@pytest.mark.parametrize("kill", [False, True], ids=["both live", "one is killed"])
def test_two_processes_on_one_grid(
    whole_grid: Whole, tmp_path: Path, chance: random.Random, tally: dict[str, int], kill: bool
) -> None:
    """Every record is made once; what one was at when it was killed, the other does."""
    tally |= {"grids": 0, "kills": 0}
    for number in range(count("PAIRS", 2)):
        folder = new_grid(tmp_path / str(number))
        one, other = begun(grid, folder), begun(grid, folder)
        if kill:
            time.sleep(chance.uniform(0, 0.7) * whole_grid.seconds)
            one.kill()
            one.join()
            tally["kills"] += one.exitcode == -9
        for process in (one, other):
            process.join(300)
        assert other.exitcode == 0 and one.exitcode == (-9 if one.exitcode == -9 else 0)
        assert board_records(folder) == whole_grid.records
        if one.exitcode == 0:
            assert sum(int(file.read_text()) for file in folder.glob("made-*")) == len(whole_grid.records)
        tally["grids"] += 1
