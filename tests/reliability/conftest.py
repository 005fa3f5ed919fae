"""What nothing disturbed: the cell's records and stages, the grid's records, and how long each takes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bdbench.grids.board import Board
from bdbench.storage.files import read_json
from bdbench.storage.record import validate
from tests.reliability.work import GRID, cell, done, grid
from tests.test_experiment import numbers


def records(out: Path) -> dict[str, Any]:
    """The numbers of the records in a folder of runs, by their run; each is a valid one."""
    found = {}
    for file in out.glob("[!.]*/record.json"):
        data = read_json(file)
        validate(data)
        found[file.parent.name] = numbers(data)
    return found


def board_records(folder: Path) -> dict[str, Any]:
    """The same of the grid's board."""
    board = Board.read(folder / "board")
    assert not board.failed
    return {name: numbers(data) for name, data in board.records.items()}


def stages(out: Path) -> dict[Path, int]:
    """The finished stages, relative to the runs, with the time that each was written."""
    return {
        file.relative_to(out).parent: file.stat().st_mtime_ns
        for file in out.glob(".stages/[0-9a-f]*/[0-9a-f]*/meta.json")
    }


def unfinished(out: Path) -> list[Path]:
    """What was begun and not ended."""
    return [path for path in out.rglob("*") if path.name.startswith(".unfinished")]


def new_grid(folder: Path) -> Path:
    """A folder with the grid's board, of which nothing was run."""
    (folder / "board").mkdir(parents=True)
    (folder / "board" / "grid.toml").write_text(GRID)
    return folder


@dataclass(frozen=True)
class Whole:
    """What comes of something that nobody stops. seconds: how long it takes in a process that was forked."""

    folder: Path
    records: dict[str, Any]
    stages: dict[Path, int]
    seconds: float


@pytest.fixture(scope="session")
def whole_cell(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("cell")
    assert done(cell, folder / "warm") == 0
    start = time.monotonic()
    assert done(cell, folder / "runs") == 0
    found = records(folder / "runs")
    assert len(found) == 2
    return Whole(folder / "runs", found, stages(folder / "runs"), time.monotonic() - start)


@pytest.fixture(scope="session")
def whole_grid(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = new_grid(tmp_path_factory.mktemp("grid") / "whole")
    start = time.monotonic()
    assert done(grid, folder) == 0
    found = board_records(folder)
    assert len(found) == 12
    return Whole(folder, found, stages(folder / "runs"), time.monotonic() - start)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Of a test's own: the same whenever it runs."""
    return random.Random(request.node.name)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """What a test counted; shown with -s, for docs/reliability.md."""
    counted: dict[str, int] = {}
    yield counted
    print(f"\n{request.node.name}: " + ", ".join(f"{number} {what}" for what, number in counted.items()))
