"""The program is stopped: within two seconds, with one line and its own exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch

import bdbench
from bdbench import Detector, Tools, TrainingView
from bdbench.components import guard
from bdbench.components.guard import Quit
from bdbench.host import machine, stopping
from tests.conftest import TINY

# What the main thread is at when the signal comes, after its word that it is there.
AT = {
    "work": "while True: pass",
    "work that swallows everything": "while True:\n    try:\n        time.sleep(9)\n    except BaseException: pass",
    "a library's long call": "import ctypes; ctypes.CDLL(None).sleep(9)",
}
PROGRAM = """
import sys, time
from bdbench.host import stopping
stopping.listen()
stopping.keeps("all of it is kept")
try:
    print("here", flush=True)
    {at}
except stopping.Stopped:
    stopping.goodbye()
"""


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def said_by(process: subprocess.Popen[str]) -> str:
    """What a process says on standard error until it ends; one that does not is no burden to those after it."""
    try:
        return process.communicate(timeout=20)[1]
    finally:
        process.kill()


def stopped(number: int, until: Callable[[], object], *words: object) -> tuple[int, str]:
    """The exit code of bdbench, sent a signal once something is so, and what it said on standard error."""
    command = [sys.executable, "-m", "bdbench", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not until():
        time.sleep(0.05)
    # A lock's file is there a moment before it is known to be ours.
    time.sleep(0.2)
    process.send_signal(number)
    said = said_by(process)
    assert "Traceback" not in said
    return process.returncode, said


@pytest.mark.parametrize(
    ("at", "number", "code"),
    [*((at, signal.SIGINT, 130) for at in AT), ("work", signal.SIGTERM, 143), ("work", signal.SIGHUP, 129)],
)
def test_it_ends_within_two_seconds_whatever_it_is_at(at: str, number: int, code: int) -> None:
    program = PROGRAM.format(at=AT[at].replace("\n", "\n    "))
    command = [sys.executable, "-c", program, "--option", "two words"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert line(process.stdout) == "here\n"
    time.sleep(0.05)
    process.send_signal(number)
    start = time.monotonic()
    said = said_by(process)
    assert time.monotonic() - start < 2
    assert process.returncode == code
    assert said == "bdbench: stopped: all of it is kept; to go on: bdbench --option 'two words'\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scan", "my photos"], ": nothing is kept yet; to start again: bdbench scan 'my photos'"),
        (["scan", "photos", "--dry-run"], ""),
        (["list"], ""),
    ],
)
def test_before_there_is_anything_it_says_how_to_start_again(words: list[str], said: str) -> None:
    program = PROGRAM.replace('stopping.keeps("all of it is kept")\n', "").format(at="time.sleep(9)")
    command = [sys.executable, "-c", program, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert line(process.stdout) == "here\n"
    process.send_signal(signal.SIGINT)
    assert said_by(process) == f"bdbench: stopped{said}\n" and process.returncode == 130


def test_what_is_kept_is_not_made_afresh_when_it_goes_on() -> None:
    program = PROGRAM.format(at=AT["work"].replace("\n", "\n    "))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", "--fresh", "--seed", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert line(process.stdout) == "here\n"
    process.send_signal(signal.SIGINT)
    assert said_by(process).endswith("to go on: bdbench run --seed 1\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "bdbench run --threads 3"),
        (["run", "--threads", "2"], "bdbench run --threads 2"),
        (["run", "--threads=2"], "bdbench run --threads=2"),
    ],
)
def test_the_threads_that_were_free_are_named_since_results_hang_on_them(
    monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """Started again beside a busy process, it would find nothing of what is kept."""
    monkeypatch.setattr(stopping._State, "kept", "all of it is kept")
    monkeypatch.setattr(stopping._State, "settings", {})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_free_cores", lambda: 3)
    before = torch.get_num_threads()
    try:
        machine.use_threads()
    finally:
        machine.use_threads(before)
    assert stopping._way_on(words) == f": all of it is kept; to go on: {said}"


def test_what_a_shell_lets_ignore_ctrl_c_goes_on() -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + PROGRAM.format(at="time.sleep(.3)")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    line(process.stdout)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_run_that_is_stopped_says_what_is_kept_and_how_it_goes_on(tmp_path: Path) -> None:
    options = [f"--{key}={value}" for key, value in {**TINY, "model": "convnet:epochs=9999"}.items()]
    words = ["run", "--defense", "random", *options, "--out", tmp_path]
    loading = time.monotonic() + 0.5
    assert stopped(signal.SIGINT, lambda: time.monotonic() > loading, *words)[0] == 130
    code, said = stopped(signal.SIGTERM, lambda: list(tmp_path.glob(".stages/*/*.lock")), *words)
    assert code == 143
    assert said.startswith(f"bdbench: stopped: finished stages are kept in {tmp_path}/.stages; to go on: bdbench run ")
    assert len(said.splitlines()) == 1
    # Not even the lock of what it was at.
    assert not list(tmp_path.glob(".stages/*/*"))


class Interrupts(Detector):
    """Presses Ctrl-C, or only says so."""

    name = "interrupts"
    real = True

    def score(self, view: TrainingView, tools: Tools) -> None:  # type: ignore[override]
        if self.real:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        raise KeyboardInterrupt


class Pretends(Interrupts):
    """Nobody pressed anything."""

    name = "pretends"
    real = False


def test_in_a_program_of_somebody_else_only_a_real_ctrl_c_ends_a_run(tmp_path: Path) -> None:
    options = {**TINY, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        bdbench.run(defense=Interrupts(), **options)
    with pytest.raises(Quit, match="it raised KeyboardInterrupt, which ends programs"):
        bdbench.run(defense=Pretends(), **options)
    with pytest.raises(KeyboardInterrupt), guard.call(), guard.call():
        signal.raise_signal(signal.SIGINT)


LEFT = """
import atexit, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from bdbench.host import stopping
from bdbench import __main__, cli
def run():
    {does}
    raise SystemExit(1)
cli.main = run
__main__.main()
"""


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("atexit.register(lambda: os._exit(0))", None),
        ("atexit.register(lambda: sys.exit(0))", None),
        ("threading.Thread(target=time.sleep, args=(60,), name='busy').start()", "bdbench: ended busy, which"),
        ("global pool; pool = ThreadPoolExecutor(2); pool.submit(int).result()", None),
        ("global pool; pool = ThreadPoolExecutor(2); pool.submit(time.sleep, 60)", "bdbench: ended ThreadPool"),
    ],
)
def test_what_is_left_for_the_end_changes_no_exit_code(does: str, said: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT.format(does=does)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1 and (said in done.stderr if said else "ended" not in done.stderr)
