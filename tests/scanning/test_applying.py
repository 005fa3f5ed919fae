"""Lists that people edited, folders that may not be written to, and links: what ``scan apply`` makes of them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdbench import BdbenchError
from bdbench.progress import Silent
from bdbench.scanning import applying, files, given
from bdbench.seeds import Streams
from tests.scanning.conftest import CLASSES, EACH, STAMPED, arrays, write_folder
from tests.scanning.test_command import invoke, scan
from tests.scanning.test_reading import read


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with images, and a scan of them that found something."""
    write_folder(tmp_path / "images")
    assert scan(tmp_path / "images", "--defense", "patch", "--report", tmp_path / "report").exit_code == 1
    return tmp_path


def move(place: Path) -> tuple[int, str]:
    done = invoke("scan", "apply", place / "report", "--move-suspects", place / "away", "--yes")
    return done.exit_code, done.stdout + done.stderr


def test_a_list_that_an_editor_left_is_read(place: Path) -> None:
    file = place / "report" / "quarantine.txt"
    first, *others = file.read_text().splitlines()
    # With the mark that Notepad puts before the first line, and a line twice.
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([first, *others, first, ""]).encode())
    assert move(place) == (0, f"moved {STAMPED} images to {place / 'away'}\n")
    assert len(list((place / "away").rglob("*.png"))) == STAMPED
    assert move(place) == (0, "nothing to move: all are moved\n")


def test_a_list_of_nothing_moves_nothing(place: Path) -> None:
    (place / "report" / "quarantine.txt").write_text("")
    assert move(place) == (0, "nothing to move: the list names no image\n")
    assert not (place / "away").exists()


def test_what_may_not_be_taken_away_is_told_before_anything_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = place / "images" / "cat"
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed and access(path, mode))
    code, said = move(place)
    assert code == 2 and said.startswith(f"bdbench: {closed} may not be written to") and not (place / "away").exists()


def test_what_stays_where_it_was_is_in_one_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another file system, from which nothing may be taken away."""

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", refused)
    with monkeypatch.context() as inner:
        inner.setattr("bdbench.scanning.applying.os.unlink", refused)
        assert move(place)[0] == 2
    names = (place / "report" / "quarantine.txt").read_text().split()
    assert all((place / "images" / name).is_file() for name in names)
    shutil.rmtree(place / "away")
    assert move(place)[0] == 0
    assert not any((place / "images" / name).exists() for name in names)
    assert all((place / "away" / name).is_file() for name in names)


def test_of_a_link_the_image_is_moved(place: Path) -> None:
    """A link that is moved would lead elsewhere."""
    name = (place / "report" / "quarantine.txt").read_text().split()[0]
    image = place / "images" / name
    image.rename(place / "elsewhere.png")
    image.symlink_to(os.path.relpath(place / "elsewhere.png", image.parent))
    assert move(place)[0] == 0
    moved = place / "away" / name
    assert not moved.is_symlink() and not os.path.lexists(image) and (place / "elsewhere.png").is_file()
    with Image.open(moved) as found, Image.open(place / "elsewhere.png") as original:
        assert found.tobytes() == original.tobytes()


def test_what_was_moved_before_is_not_written_over(place: Path) -> None:
    names = (place / "report" / "quarantine.txt").read_text().split()
    assert move(place)[0] == 0
    held = (place / "away" / names[0]).read_bytes()
    shutil.copy2(place / "images" / "dog" / "020.png", place / "images" / names[0])  # a better one, of the old name
    code, said = move(place)
    assert code == 2 and said.startswith(f"bdbench: {place / 'away' / names[0]} is there already")
    assert (place / "away" / names[0]).read_bytes() == held and (place / "images" / names[0]).is_file()


@pytest.mark.parametrize(("option", "name"), [("--copy-kept", "dog/021.png"), ("--move-suspects", "cat/001.png")])
def test_what_was_written_after_the_scan_is_not_taken_for_what_was_scanned(place: Path, option: str, name: str) -> None:
    def stands(seconds: float) -> None:
        at = (place / "report" / "scan.json").stat().st_mtime + seconds
        os.utime(place / "images" / name, (at, at))

    shutil.copy(place / "images" / "cat" / "000.png", place / "images" / name)
    now = time.time()
    os.utime(place / "report" / "scan.json", (now - 60, now - 60))
    for path in (place / "images").rglob("*.png"):
        os.utime(path, (now - 90, now - 90))
    stands(30)
    done = invoke("scan", "apply", place / "report", option, place / "new", "--yes")
    assert done.exit_code == 2 and f"{name} was written after the scan" in done.stderr
    assert not (place / "new").exists()
    for seconds in (-10, 3600):  # before it, or by a clock that is wrong
        stands(seconds)
        assert invoke("scan", "apply", place / "report", option, place / "new").exit_code == 0


def test_a_class_that_leads_elsewhere_is_not_emptied(place: Path) -> None:
    (place / "images" / "cat").rename(place / "cats")
    (place / "images" / "cat").symlink_to(place / "cats")
    code, said = move(place)
    assert code == 2 and f"outside of {place / 'images'}" in said
    assert len(list((place / "cats").iterdir())) == 20


@pytest.mark.parametrize("kept", ["", "dog/020.png"])
def test_models_are_compared_only_where_two_classes_are_left(place: Path, kept: str) -> None:
    lists = [(place / "report" / name) for name in ("quarantine.txt", "keep.txt")]
    names = {name for file in lists for name in file.read_text().split()}
    lists[0].write_text("\n".join(sorted(names - {kept})) + "\n")
    done = invoke("scan", "apply", place / "report", "--retrain")
    left = "1 class" if kept else "0 classes"
    assert done.exit_code == 2 and f"{left} of those judged" in done.stderr


def test_lists_that_a_person_edited_are_not_written_over(place: Path) -> None:
    file = place / "report" / "quarantine.txt"
    again = ("--defense", "patch", "--report", place / "report")
    assert scan(place / "images", *again).exit_code == 1  # as the last one left it
    written = (place / "report" / "report.html").stat().st_mtime_ns
    file.write_text("cat/000.png\n")
    os.utime(file, ns=(written + 10**9, written + 10**9))
    done = scan(place / "images", *again)
    assert done.exit_code == 2 and f"{file} was edited" in done.stderr and file.read_text() == "cat/000.png\n"
    file.unlink()
    assert scan(place / "images", *again).exit_code == 1 and len(file.read_text().split()) == STAMPED


@pytest.mark.parametrize("name", ["keep.txt", "quarantine.txt"])
def test_a_list_that_a_person_edited_is_not_written_anew(name: str, place: Path) -> None:
    written = (place / "report" / "report.html").stat().st_mtime_ns
    os.utime(place / "report" / name, ns=(written + 10**9, written + 10**9))
    with pytest.raises(BdbenchError, match=f"{name} was edited"):
        files.check_unedited(place / "report")


def test_a_name_that_begins_as_a_list_of_notepad_does_comes_back(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_bytes(files._lines(["\ufeffcat/0.png", "\ufeffcat/1.png"]).encode())
    assert files.names_in(tmp_path / "keep.txt") == ["\ufeffcat/0.png", "\ufeffcat/1.png"]


class Trained:
    """In place of a laboratory's training: the first network is always wrong, the second always right."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: list[np.ndarray] = []  # by each
        self.tried: list[np.ndarray] = []  # rows that each was asked for
        trained = self

        def train(self: applying.Laboratory, kept: np.ndarray, stream: str, label: str) -> tuple[Any, None]:
            trained.kept.append(kept.copy())
            view, wrong = self.view, len(trained.kept) == 1

            class Network:
                def predict(self, images: np.ndarray) -> np.ndarray:
                    rows = np.array([np.flatnonzero((view.images == one).all((1, 2, 3)))[0] for one in images])
                    trained.tried.append(rows)
                    return (view.labels[rows] + wrong) % len(CLASSES)

            return Network(), None

        monkeypatch.setattr(applying.Laboratory, "trained", train)


def test_models_with_and_without_the_suspects_are_tried_on_what_neither_has_seen(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(monkeypatch)
    done = invoke("scan", "apply", place / "report", "--retrain")
    assert done.exit_code == 0, done.output
    # A fifth of the 54 that are no suspects.
    assert "accuracy on 11 images set apart for it: 0.0 % with the 6 suspects, 100.0 % without them" in done.stdout
    assert [int(kept.sum()) for kept in trained.kept] == [60 - 11, 60 - 11 - 6]
    assert not any(kept[rows].any() for kept, rows in zip(trained.kept, trained.tried, strict=True))


def test_an_image_is_left_out_with_all_of_its_copies_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "images")
    for name in ("000", "001"):
        shutil.copy(tmp_path / "images" / "cat" / f"{name}.png", tmp_path / "images" / "cat" / f"{name}-again.png")
    assert scan(tmp_path / "images", "--defense", "patch", "--report", tmp_path / "report").exit_code == 1
    listed = tmp_path / "report" / "quarantine.txt"
    assert len(listed.read_text().splitlines()) == 8
    Trained(monkeypatch)
    assert "with the 8 suspects" in invoke("scan", "apply", tmp_path / "report", "--retrain").stdout
    # One of two copies is kept after all: what it shows is among what is trained on.
    listed.write_text("\n".join(line for line in listed.read_text().splitlines() if line != "cat/000.png"))
    trained = Trained(monkeypatch)
    assert "with the 6 suspects" in invoke("scan", "apply", tmp_path / "report", "--retrain").stdout
    assert int(trained.kept[0].sum() - trained.kept[1].sum()) == 5


def test_a_set_that_was_changed_is_not_compared(place: Path) -> None:
    Image.new("RGB", (16, 16)).save(place / "images" / "dog" / "030.png")
    done = invoke("scan", "apply", place / "report", "--retrain")
    assert done.exit_code == 2 and "is not as it was scanned" in done.stderr


def test_a_scan_of_a_subset_is_compared_on_that(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    asked = ("--defense", "patch", "--subset", "48", "--report", tmp_path / "report")
    assert scan(tmp_path / "images", *asked).exit_code == 1
    assert invoke("scan", "apply", tmp_path / "report", "--retrain").exit_code == 0


def test_a_test_part_is_judged_by_the_names_of_its_classes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", part="train")
    write_folder(root, stamped=0, part="test")
    for part in ("train", "test"):  # of one image: too small to be judged, and the first by name
        (root / part / "ant").mkdir()
        shutil.copy(root / part / "cat" / "010.png", root / part / "ant" / "0.png")
    listing = given.of_paths([root])
    found = read(root)
    images, labels, usable, what = applying._test_part(listing, found, np.zeros(60, bool), 16, Streams(0), Silent())
    assert found.classes == CLASSES and labels.tolist() == np.repeat([0, 1, 2], EACH).tolist()
    assert usable.all() and what == "test images" and np.array_equal(images, arrays(0)[0])
