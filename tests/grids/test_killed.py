"""A grid that is killed at a random moment and started again ends the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bdbench import leaderboard
from bdbench.storage import record
from tests.conftest import TINY, TINY_DATAMODEL
from tests.grids.test_grid import made

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
