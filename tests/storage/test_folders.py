from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bdbench.storage import folders
from bdbench.storage.store import written_whole


def write(folder: Path, text: str, keep_others: bool = False) -> None:
    with written_whole(folder, keep_others) as aside:
        (aside / "one").write_text(text)
        (aside / "two").write_text(text)


@pytest.fixture(params=["exchanged", "in turn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in turn":
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    return request.param


@pytest.fixture
def looked_at(tmp_path: Path) -> Iterator[list[str]]:
    """What somebody who looks at a folder all the time finds wrong with it."""
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if not (tmp_path / "run").is_dir():
                wrong.append("absent")

    write(tmp_path / "run", "0")
    thread = threading.Thread(target=look)
    thread.start()
    yield wrong
    over.set()
    thread.join()


@pytest.mark.skipif(folders._exchange() is None, reason="this system cannot exchange two folders")
def test_a_folder_that_is_replaced_is_never_absent(looked_at: list[str], tmp_path: Path) -> None:
    for i in range(300):
        write(tmp_path / "run", str(i))
    assert looked_at == []
    assert (tmp_path / "run" / "one").read_text() == "299"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_whoever_is_killed_leaves_one_of_the_two_whole(tmp_path: Path) -> None:
    write(tmp_path / "run", "first")
    for _ in range(15):
        child = os.fork()
        if child == 0:
            while True:
                write(tmp_path / "run", str(random.random()))
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        one, two = ((tmp_path / "run" / name).read_text() for name in ("one", "two"))
        assert one == two


def test_what_else_lies_in_a_folder_stays_if_it_is_to(way: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run, "old")
    (run / "report.html").write_text("mine")
    (run / "notes").mkdir()
    (run / "notes" / "a.txt").write_text("mine too")
    os.symlink("nowhere", run / "link")
    write(run, "new", keep_others=True)
    assert {p.name for p in run.iterdir()} == {"one", "two", "report.html", "notes", "link"}
    assert (run / "one").read_text() == "new"
    assert (run / "report.html").read_text() == "mine" and (run / "notes" / "a.txt").read_text() == "mine too"
    write(run, "alone")
    assert {p.name for p in run.iterdir()} == {"one", "two"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_comes_while_a_folder_is_replaced_stays(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    write(run, "old")
    first, calls = folders._take_over, []

    def late(old: Path, new: Path) -> None:
        first(old, new)
        if not calls:
            (run / "report.html").write_text("just in time")
        calls.append(1)

    monkeypatch.setattr(folders, "_take_over", late)
    write(run, "new", keep_others=True)
    assert (run / "report.html").read_text() == "just in time"
