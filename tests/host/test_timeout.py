"""Work that never ends: it is ended, said whose it was, and what comes next goes on."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

import bdbench
from bdbench import BdbenchError, Detector, Tools, TrainingView
from bdbench.cli import cli
from bdbench.experiment import run_each
from bdbench.grids.board import Board
from bdbench.host import timeout
from bdbench.host.timeout import OutOfTime, at_most, import_seconds
from bdbench.registry import hookspecs
from bdbench.registry.plugins import Plugin, Plugins, Registration, installed
from tests.conftest import TINY
from tests.grids.test_grid import TOML, made, run
from tests.registry.conftest import Load, bdbench_register_defenses, load, plugins

__all__ = ["load", "plugins"]


def forever() -> None:
    while True:
        time.sleep(0.01)


def forever_whatever_is_raised() -> None:
    for _ in range(2):
        try:
            forever()
        except Exception:
            continue


@dataclass(frozen=True, kw_only=True)
class Hangs(Detector):
    name: ClassVar[str] = "hangs"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        forever()
        return np.zeros(len(view.labels))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All modules that a cell loads, which takes long on a busy machine; half a module is of no use afterwards."""
    bdbench.run(defense="random", **{**TINY, "attack": "none"}, out=tmp_path_factory.mktemp("before"))


def test_what_takes_too_long_is_ended_and_nothing_rings_afterwards() -> None:
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with (
        pytest.raises(OutOfTime, match=r"more than the 0\.1 seconds that --cell-seconds allows"),
        at_most(0.1, "--cell-seconds"),
    ):
        forever()
    assert time.monotonic() - began < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_what_catches_it_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeout, "_AGAIN", 0.1)
    with pytest.raises(OutOfTime), at_most(0.1, "x"):
        forever_whatever_is_raised()
        forever()


def test_what_ends_in_time_is_left_alone() -> None:
    with at_most(0.2, "x"):
        pass
    with at_most(None, "x"):
        time.sleep(0.3)


def test_the_program_says_it_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(timeout.IMPORT_SECONDS, "x")
    said = subprocess.run([sys.executable, "-m", "bdbench", "list"], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.startswith("bdbench: BDBENCH_IMPORT_SECONDS is 'x': expected")
    assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize("given", ["soon", "0", "-1", "inf", "nan"])
def test_a_limit_on_imports_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(timeout.IMPORT_SECONDS, given)
    with pytest.raises(BdbenchError, match=f"BDBENCH_IMPORT_SECONDS is {given!r}: expected a number"):
        import_seconds()


def test_an_import_that_hangs_is_named_and_the_rest_works(
    plugins: Plugins, load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "endless_plugin.py").write_text("import time\nwhile True:\n    time.sleep(.01)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(timeout.IMPORT_SECONDS, "0.2")
    plugins.load(importlib.metadata.EntryPoint("endless", "endless_plugin", hookspecs.GROUP))
    load("one", bdbench_register_defenses=bdbench_register_defenses)
    assert plugins.get("defense", "flat").plugin.distribution == "one"
    (error,) = plugins.errors()
    assert "OutOfTime: it took more than the 0.2 seconds that BDBENCH_IMPORT_SECONDS allows" in error


def test_a_cell_that_hangs_is_recorded_as_failed_and_the_rest_goes_on(
    loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        installed()._all("defense"), "hangs", [Registration("hangs", Hangs, Plugin("made", "made", "1"))]
    )
    file = made(tmp_path / "board", TOML.replace('"random", "low-loss"', '"hangs", "random"'))
    result = run(file, "--only", "attack=none", "--seeds", "0", "--cell-seconds", "15")
    assert result.exit_code == 1
    error = "defense 'hangs' of made: OutOfTime: it took more than the 15 seconds that --cell-seconds allows"
    board = Board.read(tmp_path / "board")
    assert list(board.failed.values()) == [error]
    assert [r["config"]["defense"]["name"] for r in board.records.values()] == ["random"]
    (trace,) = (tmp_path / "board" / "failed").glob("*.txt")
    assert "in forever" in trace.read_text()


def test_a_run_has_the_same_limit(loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        installed()._all("defense"), "hangs", [Registration("hangs", Hangs, Plugin("made", "made", "1"))]
    )
    words = ["--dataset", TINY["dataset"], "--model", TINY["model"], "--attack", "none", "--device", "cpu"]
    both = ["--defense", "hangs", "--defense", "random"]
    ended = CliRunner().invoke(cli, ["run", *words, *both, "--cell-seconds", "8", "--out", str(tmp_path / "runs")])
    error = "bdbench: defense 'hangs' of made: OutOfTime: it took more than the 8 seconds that --cell-seconds allows"
    assert ended.exit_code == 1 and [line for line in ended.stderr.splitlines() if line.startswith(error)]
    assert [path.name for path in (tmp_path / "runs").glob("*/record.json")] == ["record.json"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_all_share_is_limited_once(loaded: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bdbench.cells.scene.made", lambda setting: forever())
    began = time.monotonic()
    found = list(run_each(defenses=["random", "spectral"], **{**TINY, "attack": "none"},
                          cell_seconds=0.3, out=tmp_path))  # fmt: skip
    assert [type(error) for error in found] == [OutOfTime, OutOfTime] and time.monotonic() - began < 8


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e10"])
def test_a_limit_that_is_none_is_named(seconds: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, ["run", "--cell-seconds", seconds, "--out", str(tmp_path)])
    assert ended.exit_code == 2 and len(ended.stderr.splitlines()) == 1
    assert "expected a number of seconds above 0, at most 1e+09" in ended.stderr
    with pytest.raises(BdbenchError, match="cell_seconds .* is not allowed"):
        bdbench.run("none", "random", cell_seconds=float(seconds), out=tmp_path)
