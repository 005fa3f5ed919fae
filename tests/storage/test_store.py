from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdbench import BdbenchError
from bdbench.host.timeout import OutOfTime
from bdbench.storage import files, folders
from bdbench.storage.store import Store, check_writable, key_of, write_file, written_whole


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[dict[str, np.ndarray], float]:
        self.calls += 1
        return {"x": np.arange(3)}, 1.5


def test_a_stage_is_made_once_and_keeps_its_time(tmp_path: Path) -> None:
    make = Counter()
    first = Store(tmp_path).stage({"a": 1}, make)
    again = Store(tmp_path).stage({"a": 1}, make)
    assert make.calls == 1
    assert (first.reused, again.reused) == (False, True)
    assert again.seconds == 1.5
    assert again.arrays["x"].tolist() == [0, 1, 2]


def test_finished_work_is_not_thrown_away_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that is taken for a damaged one is made again."""
    make = Counter()
    Store(tmp_path).stage({"a": 1}, make)
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 1)
    assert Store(tmp_path).stage({"a": 1}, make).reused and make.calls == 1


def test_another_configuration_is_another_stage(tmp_path: Path) -> None:
    make, store = Counter(), Store(tmp_path)
    store.stage({"a": 1}, make)
    store.stage({"a": 2}, make)
    assert make.calls == 2
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1})


def test_fresh_ignores_what_was_there_but_not_its_own(tmp_path: Path) -> None:
    make = Counter()
    Store(tmp_path).stage({"a": 1}, make)
    fresh = Store(tmp_path, fresh=True)
    fresh.stage({"a": 1}, make)
    assert fresh.stage({"a": 1}, make).reused
    assert make.calls == 2


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("arrays.npz", lambda whole: whole[:20]),
        ("arrays.npz", lambda whole: b""),
        ("arrays.npz", lambda whole: None),
        ("meta.json", lambda whole: b""),
        ("meta.json", lambda whole: b"null"),
        ("meta.json", lambda whole: b'{"seconds": null}'),
    ],
    ids=["cut off", "empty", "gone", "no text", "nothing", "no time"],
)
def test_a_damaged_stage_is_made_again(tmp_path: Path, name: str, left: Callable[[bytes], bytes | None]) -> None:
    make = Counter()
    Store(tmp_path).stage({"a": 1}, make)
    file = next(tmp_path.rglob(name))
    content = left(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    assert Store(tmp_path).stage({"a": 1}, make).arrays["x"].tolist() == [0, 1, 2]
    assert make.calls == 2


@settings(max_examples=60, deadline=None)
@given(
    file=st.sampled_from(["arrays.npz", "meta.json"]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_no_bit_that_falls_over_is_read_as_something_else(
    file: str, place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    arrays = {"labels": np.arange(3), "weights": np.arange(4.0).reshape(2, 2)}
    Store(folder).stage({"a": (1, 2.5), "b": {10: 1, 9: 2}}, lambda: (arrays, 1.5))
    (path,) = folder.rglob(file)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    again = Store(folder).stage({"a": (1, 2.5), "b": {10: 1, 9: 2}}, lambda: (arrays, 1.5))
    assert again.seconds == 1.5 and again.arrays.keys() == arrays.keys()
    assert all(np.array_equal(again.arrays[name], arrays[name]) for name in arrays)


def test_a_stage_in_the_place_of_another_is_told_of_and_made_again(tmp_path: Path, caplog: Any) -> None:
    store = Store(tmp_path)
    places = []
    for a in (1, 2):
        store.stage({"a": a}, lambda a=a: ({"x": np.full(3, a)}, float(a)))
        places.append(tmp_path / key_of({"a": a})[:2] / key_of({"a": a}))
    assert Store(tmp_path).stage({"a": 1}, Counter()).reused and not caplog.records
    for name in ("arrays.npz", "meta.json"):
        shutil.copy(places[1] / name, places[0] / name)
        again = Store(tmp_path).stage({"a": 1}, lambda: ({"x": np.full(3, 1)}, 1.0))
        assert not again.reused and again.arrays["x"].tolist() == [1, 1, 1]
    (first, second) = [record.getMessage() for record in caplog.records]
    assert (
        first == f"the stage result {places[0]} is damaged and is computed again: arrays.npz is not as it was written"
    )
    assert "it is of stage" in second
    meta = places[0] / "meta.json"
    for seconds in ("1e308", "true", "NaN"):
        meta.write_text(meta.read_text().replace('"seconds": 1.0', f'"seconds": {seconds}'))
        assert Store(tmp_path).stage({"a": 1}, lambda: ({"x": np.full(3, 1)}, 1.0)).seconds == 1.0


def test_a_stage_that_another_process_finishes_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes right before the rename, twice, after any look at whether the place is free."""
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    rename, others = Path.rename, iter(range(2))

    def raced(path: Path, target: Path) -> Path:
        if target == tmp_path / "run" and next(others, None) is not None:
            target.mkdir()
            (target / "theirs").write_text("whole")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", raced)
    with written_whole(tmp_path / "run") as aside:
        (aside / "ours").write_text("whole")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["ours"]
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), written_whole(tmp_path / "run") as aside:
        (aside / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_what_was_there_stays_if_the_new_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with written_whole(tmp_path / "run") as aside:
        (aside / "old").write_text("whole")
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    rename, failing = Path.rename, iter([False, False, True])

    def interrupted(path: Path, target: Path) -> Path:
        if next(failing, False):
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((BdbenchError, KeyboardInterrupt)), written_whole(tmp_path / "run") as aside:
        (aside / "new").write_text("whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["old"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with written_whole(tmp_path / "run") as aside:
            (aside / name).write_text(name)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["two"]


def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with written_whole(tmp_path / "run") as aside:
        (aside / "one").write_text("one")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BdbenchError, match="No space left on device"), written_whole(tmp_path / "run") as aside:
        (aside / "two").write_text("two")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "one").read_text() == "one"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BdbenchError, match="cannot write to .*file/below"):
        Store(tmp_path / "file" / "below")


def test_what_killed_processes_left_is_swept_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "ab" / ".unfinished-old", tmp_path / "ab" / ".unfinished-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "arrays.npz").touch()
    file = tmp_path / ".unfinished-record.json"
    file.touch()
    for path in (old, file):
        os.utime(path, times=(0, 0))
    Store(tmp_path)
    assert young.exists() and not old.exists() and not file.exists()


def test_a_file_is_written_where_a_link_leads_and_into_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    # A daemon: were the pipe replaced, it would wait for ever, and the session with it.
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_file(tmp_path / "pipe", "through")
    reader.join(10)
    assert read == ["through"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["folder", "n" * 300])
def test_a_file_that_cannot_be_written_leaves_nothing_and_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BdbenchError, match="it is a folder, expected a file|File name too long"):
        write_file(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_cannot_be_put_into_its_place_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.replace", lambda one, other: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BdbenchError, match="No space left on device"):
        write_file(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [".", "inside", "link"])
def test_a_folder_that_somebody_is_in_stays_and_its_files_are_replaced(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(run)
    (run / "file").write_text("old")
    (run / "mine").write_text("mine")
    run.chmod(0o700)
    monkeypatch.chdir(tmp_path if place == "link" else run / place)
    was = run.stat().st_ino
    given = {".": Path("."), "inside": Path(".."), "link": Path("link")}[place]
    with written_whole(given, keep_others=True) as aside:
        (aside / "file").write_text("new")
    assert {path.name for path in run.iterdir()} == {"file", "mine", "inside"}
    assert (run / "file").read_text() == "new" and run.stat().st_mode & 0o777 == 0o700
    assert place == "link" or run.stat().st_ino == was
    assert {path.name for path in tmp_path.iterdir()} == {"run", "link"} and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("why", ["a mount", "a parent of others"])
def test_a_folder_whose_place_none_can_take_is_filled(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "file").write_text("old")
    if why == "a mount":
        monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == run)
    else:
        monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    was = run.stat().st_ino
    with written_whole(run, keep_others=True) as aside:
        assert aside.parent == run
        (aside / "file").write_text("new")
    assert [path.name for path in run.iterdir()] == ["file"] and (run / "file").read_text() == "new"
    assert run.stat().st_ino == was


def test_a_place_that_cannot_be_written_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BdbenchError, match=r"cannot write to .*file/below: Not a directory"):
        check_writable(tmp_path / "file" / "below")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(BdbenchError, match="cannot write to .*: Permission denied: expected a writable folder"):
        check_writable(tmp_path)


def test_work_that_takes_too_long_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm may ring while a stage is read, or a file: that is neither's fault."""

    def late(*arguments: Any) -> Any:
        raise OutOfTime("it took too long")

    monkeypatch.setattr(Store, "_read", late)
    with pytest.raises(OutOfTime):
        Store(tmp_path).stage({"a": 1}, lambda: ({}, 0.0))
    with pytest.raises(OutOfTime), files.reading(tmp_path, "anything"):
        late()


def test_a_store_that_is_only_read_makes_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "stages")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    Store(tmp_path / "file" / "stages", finished=True)
