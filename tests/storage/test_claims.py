from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bdbench import BdbenchError
from bdbench.storage import claims
from bdbench.storage.claims import KILLS, TRIES, attempt, locked
from bdbench.storage.store import Store


def test_a_full_disk_ends_no_work(tmp_path: Path) -> None:
    """How often somebody died at it is not counted then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with attempt(tmp_path / "work.lock", "code") as claim:
            assert claim is not None and not claim.hopeless
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def child(work: Callable[[], object]) -> int:
    """A process that does something, and ends without any clean-up."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_one_process_has_a_lock_and_gives_it_up_with_its_life(tmp_path: Path) -> None:
    path, there = tmp_path / "a" / "x.lock", tmp_path / "there"

    def hold() -> None:
        with locked(path):
            there.touch()
            time.sleep(60)

    pid = child(hold)
    until(there.exists)
    with locked(path, wait=False) as file:
        assert file is None
    os.kill(pid, signal.SIGKILL)
    with locked(path) as file:
        assert file is not None
        os.waitpid(pid, 0)
    assert not path.exists()


def test_what_is_made_out_of_itself_does_not_wait_for_itself(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "x.lock"),
        pytest.raises(BdbenchError, match="x is made out of itself"),
        locked(tmp_path / "x.lock"),
    ):
        pass
    with locked(tmp_path / "x.lock") as lock, locked(tmp_path / "y.lock"):
        assert lock is not None


def test_a_lock_is_no_longer_held_by_children_of_who_died(tmp_path: Path) -> None:
    path, there = tmp_path / "x.lock", tmp_path / "there"

    def hold() -> None:
        with locked(path):
            there.write_text(str(child(lambda: time.sleep(60))))
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(hold), 0)
    with locked(path, wait=False) as file:
        assert file is not None
    os.kill(int(there.read_text()), signal.SIGKILL)


def test_everybody_has_it_once_and_nobody_at_the_same_time(tmp_path: Path) -> None:
    path, log = tmp_path / "x.lock", tmp_path / "log"

    def work() -> None:
        for _ in range(50):
            with locked(path):
                before = log.read_text() if log.exists() else ""
                log.write_text(before + "x")

    pids = [child(work) for _ in range(3)]
    for pid in pids:
        os.waitpid(pid, 0)
    assert log.read_text() == "x" * 150
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_deaths_at_a_piece_of_work_are_counted_until_it_is_hopeless(tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.lock"

    def die(how: int) -> None:
        with attempt(path, "code") as claim:
            assert claim is not None and not claim.hopeless
            os.kill(os.getpid(), how)

    tries = {signal.SIGSEGV: TRIES, signal.SIGKILL: KILLS}[number]
    for died in range(tries):
        os.waitpid(child(lambda: die(number)), 0)
        assert f'"died": {died + 1}' in path.read_text()
    for _ in range(2):
        with attempt(path, "code") as claim:
            assert claim is not None and claim.hopeless and claim.died == tries
            assert claim.crashed == (tries if number == signal.SIGSEGV else 0)
            assert ("Segmentation fault" in claim.trace and "in die" in claim.trace) == bool(claim.crashed)
        assert path.exists()
    with attempt(path, "mended code") as claim:
        assert claim is not None and not claim.hopeless
    assert not path.exists()


def test_who_gets_further_every_time_is_not_given_up(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"

    def further(step: int) -> None:
        store = Store(tmp_path / "stages")
        with attempt(path, "code") as claim:
            assert claim is not None and not claim.hopeless
            for i in range(step + 1):
                store.stage({"i": i}, lambda: ({}, 0.0))
            os.kill(os.getpid(), signal.SIGKILL)

    for step in range(2 * TRIES):
        os.waitpid(child(lambda step=step: further(step)), 0)  # type: ignore[misc]
        assert (tmp_path / "stages").is_dir() and '"died": 1' in path.read_text()
    for died in range(2, TRIES):
        os.waitpid(child(lambda: further(2 * TRIES - 1)), 0)
        assert f'"died": {died}' in path.read_text()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_is_no_death(tmp_path: Path, error: type[BaseException]) -> None:
    for _ in range(TRIES + 1):
        with pytest.raises(error), attempt(tmp_path / "x.lock", "code") as claim:
            assert claim is not None and claim.died == 0
            raise error
    assert claims._HELD == {}


def test_without_locks_everybody_works_for_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with attempt(tmp_path / "x.lock", "code") as one, attempt(tmp_path / "y.lock", "code", wait=False) as two:
        assert one is not None and two is not None
