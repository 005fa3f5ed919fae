from __future__ import annotations

import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdbench import BdbenchError, Listing
from bdbench.host import memory
from bdbench.progress import quiet
from bdbench.scanning import given, reading, telling
from bdbench.scanning.reading import Read
from bdbench.seeds import Streams
from tests.scanning.conftest import CLASSES, EACH, arrays, write_folder


def read(source: Path | tuple[np.ndarray, np.ndarray], **options: Any) -> Read:
    listing = given.of_object(source) if isinstance(source, tuple) else given.of_paths([source])
    options = {"size": None, "subset": None, "strict": False, "streams": Streams(0), "track": quiet, **options}
    return reading.read(listing, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos")


def test_folders_and_arrays_are_read_alike_in_random_order(folder: Path) -> None:
    images, labels = arrays()
    found = read(folder)
    assert found.classes == CLASSES
    assert found.images.shape == images.shape and not found.images.flags.writeable
    assert not np.array_equal(found.labels, labels)
    assert np.array_equal(found.images, images[found.places])
    assert np.array_equal(found.labels, labels[found.places])
    again = read((images, labels))
    assert np.array_equal(found.images, again.images)


def test_train_is_scanned_and_test_kept_beside(tmp_path: Path) -> None:
    root = write_folder(tmp_path, part="train")
    write_folder(tmp_path, part="test")
    found = read(root)
    assert len(found.labels) == 3 * EACH
    assert found.listing.names[0] == "train/cat/000.png"
    assert found.listing.test is not None and len(found.listing.test) == 3 * EACH


def test_a_class_of_trains_is_no_training_part(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "cat").rename(root / "train")
    assert read(root).classes == ("dog", "ship", "train")


def test_what_lies_beside_training_and_test_part_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, part="train")
    write_folder(tmp_path, part="test")
    (root / "test" / "cat").rename(root / "test" / "lion")
    write_folder(tmp_path, part="val")
    # It is no fault of the set.
    found = read(root, strict=True)
    assert [(odd.name, odd.reason) for odd in found.skipped] == [
        ("val", "things beside train"),
        ("test/lion", "classes that train does not have"),
    ]
    assert found.listing.test is not None and len(found.listing.test) == 2 * EACH


def test_odd_files_are_left_out_and_named(folder: Path) -> None:
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (folder / "cat" / "notes.txt").write_text("hello")
    (folder / "cat" / "inner").mkdir()
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "dog" / "empty.png").write_bytes(b"")
    found = read(folder)
    assert len(found.labels) == 3 * EACH
    names = {odd.name for odd in found.skipped}
    assert names == {"cat/broken.jpg", "cat/notes.txt", "cat/inner", "cat/pipe.png", "dog/empty.png"}
    told = "\n".join(telling.lines(found))
    assert "3 files that do not read" in told and "1 nested folders (cat/inner)" in told
    with pytest.raises(BdbenchError, match=r"notes\.txt|inner"):
        read(folder, strict=True)
    (folder / "cat" / "notes.txt").unlink()
    (folder / "cat" / "inner").rmdir()
    with pytest.raises(BdbenchError, match="with --strict"):
        read(folder, strict=True)


def test_images_are_seen_as_a_person_sees_them(tmp_path: Path) -> None:
    """Upright, in their colours and on white, whatever the format, and brought to one size."""
    rng = np.random.default_rng(0)
    wide = np.zeros((24, 48, 3), np.uint8)
    wide[:, :24] = (250, 10, 10)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(reading.FEWEST):
            Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(tmp_path / label / f"x{i}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown a quarter turned: the red half is on top
    Image.fromarray(wide).save(tmp_path / "a" / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(wide).resize((60, 30)).convert("CMYK").save(tmp_path / "a" / "cmyk.jpg", quality=95)
    Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(tmp_path / "a" / "deep.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "a" / "clear.png")
    Image.fromarray(wide).save(tmp_path / "a" / "moves.gif", save_all=True, append_images=[Image.new("RGB", (48, 24))])
    found = read(tmp_path, size=16)
    assert found.images.shape[1:] == (16, 16, 3)
    seen = {found.listing.names[p]: found.images[row].astype(int) for row, p in enumerate(found.places)}
    # White twice is one copy of the other.
    white = [seen[name] for name in ("a/deep.png", "a/clear.png") if name in seen]
    assert len(white) == 1 and white[0].min() == 255
    top, left = seen["a/turned.jpg"][2, 8], seen["a/cmyk.jpg"][8, 2]
    assert top[0] > 150 > 100 > top[1] and left[0] > 150 > 100 > left[1]
    assert seen["a/turned.jpg"][13, 8].max() < 60
    assert seen["a/moves.gif"][8, 2][0] > 150
    assert found.sizes[0] == (20, 20) and found.resized == found.decoded


def test_grey_sets_have_one_channel_and_one_coloured_image_makes_three(tmp_path: Path) -> None:
    grey = np.repeat(arrays()[0][..., :1], 3, axis=3)
    labels = arrays()[1]
    assert read((grey, labels)).images.shape[-1] == 1
    many = np.concatenate([grey, grey, grey]).copy()
    many[:, 0, 0] = np.arange(len(many))[:, None]  # none is a copy of another
    many[100, 5, 5] = (200, 0, 0)
    found = read((many, np.tile(labels, 3)))
    assert found.images.shape[-1] == 3 and found.grey == len(many) - 1
    assert [200, 0, 0] in found.images[:, 5, 5].tolist()


def test_copies_are_scanned_once_and_those_in_two_classes_told(folder: Path) -> None:
    shutil.copy(folder / "cat" / "010.png", folder / "cat" / "again.png")
    shutil.copy(folder / "cat" / "011.png", folder / "ship" / "stray.png")
    found = read(folder)
    assert len(found.labels) == 3 * EACH + 1 and found.decoded == 3 * EACH + 2
    ((place, row),) = found.copies_of.tolist()
    assert {found.listing.names[place], found.listing.names[found.places[row]]} == {"cat/010.png", "cat/again.png"}
    assert [set(copies.names) for copies in found.exact] == [
        {"cat/011.png", "ship/stray.png"},
        {"cat/010.png", "cat/again.png"},
    ]
    assert found.exact[0].labels == ("cat", "ship")
    # One picture under two labels is no near copy of itself.
    assert not [copies for copies in found.near if "ship/stray.png" in copies.names]
    within = replace(found, exact=found.exact[::-1])
    (told,) = (line for line in telling.lines(within) if line.startswith("exact copies"))
    assert told.endswith("1 group in several classes, such as cat/011.png, ship/stray.png")


def test_small_classes_are_not_judged(folder: Path) -> None:
    (folder / "rare").mkdir()
    for i in range(reading.FEWEST - 1):
        shutil.copy(folder / "dog" / f"02{i}.png", folder / "rare" / f"{i}.png")
    found = read(folder)
    assert found.classes == CLASSES and found.small == {"rare": reading.FEWEST - 1}
    assert len(found.unjudged) == reading.FEWEST - 1
    assert "not judged: 1 class of" in "\n".join(telling.lines(found))


def test_a_subset_keeps_the_shares_of_the_classes(folder: Path) -> None:
    found = read(folder, subset=30)
    assert np.bincount(found.labels).tolist() == [10, 10, 10] and len(found.left_out) == 30
    with pytest.raises(BdbenchError, match="less than the 60"):
        read(folder, subset=60)


def test_the_fingerprint_is_of_the_data_alone(folder: Path) -> None:
    found = read(folder).fingerprint
    assert read(folder, size=8, streams=Streams(3)).fingerprint == found
    (folder / "cat" / "000.png").rename(folder / "cat" / "900.png")
    assert read(folder).fingerprint != found


def test_large_images_are_not_held() -> None:
    """40 images of 3 MB each are read, and never more of them held than are decoded at once."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (100, 100, 3)).astype(np.uint8)
    labels = np.arange(40) % 2
    names = [str(i) for i in range(40)]
    listing = Listing(names, labels, ("a", "b"), lambda i: np.tile(np.roll(tile, i), (10, 10, 1)))
    tracemalloc.start()
    found = reading.read(listing, size=32, subset=None, strict=False, streams=Streams(0), track=quiet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.labels) == 40 and found.sizes[0] == (1000, 1000)
    assert peak < 10 * 3e6


def test_what_cannot_fit_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 30 * 16 * 16 * 3)
    with pytest.raises(BdbenchError, match="--subset 30, or a smaller --size"):
        read(folder)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: root.mkdir(), "with 0 folders and 0 files"),
        (lambda root: (root / "a").mkdir(parents=True) or (root / "a" / "x.txt").write_text(""), "with 1 folder and"),
        (lambda root: None, "is not there"),
        (
            lambda root: root.mkdir() or Image.new("L", (9, 9)).save(root / "x.png"),
            "has 1 image and no folders of classes: expected a folder for each class",
        ),
        (
            lambda root: (root / "a").mkdir(parents=True) or Image.new("L", (9, 9)).save(root / "a" / "x.png"),
            "2 classes",
        ),
        (
            lambda root: [
                ((root / c).mkdir(parents=True), (root / c / "x.jpg").write_text("<html>")) for c in ("a", "b")
            ],
            r"none of 2 images reads, such as [ab]/x.jpg: cannot read the image",
        ),
    ],
    ids=["empty", "text", "missing", "flat", "one image", "no image"],
)
def test_what_is_no_set_is_refused_in_one_line(tmp_path: Path, make: Any, told: str) -> None:
    make(tmp_path / "set")
    with pytest.raises(BdbenchError, match=told) as error:
        read(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_of_many_copies_some_are_named(folder: Path) -> None:
    for label in ("cat", "dog"):
        for place in range(30):
            Image.new("RGB", (16, 16), (99, 99, 99)).save(folder / label / f"none{place}.png")
    (line,) = [line for line in telling.lines(read(folder)) if line.startswith("exact copies")]
    assert line == (
        "exact copies: 60 images in 1 group; 1 group in several classes, such as cat/none0.png, cat/none1.png, "
        "cat/none10.png, cat/none11.png ..."
    )


def test_a_name_that_cannot_be_written_is_one_line() -> None:
    images, labels = arrays()
    with pytest.raises(BdbenchError, match=r"the name of a class, 'cat\\ud800', is no text"):
        read((images, np.array(["cat\ud800", "dog", "ship"])[labels]))


def test_the_longest_side_of_any_image_is_told(folder: Path) -> None:
    assert (read(folder).shrunk, read(folder).longest) == (0, 16)
    Image.new("RGB", (16, 64)).save(folder / "dog" / "tall.png")
    assert (read(folder).shrunk, read(folder).longest) == (1, 64)


def test_a_class_of_eight_images_is_judged_and_one_of_eight_copies_is_not() -> None:
    images, labels = arrays()
    found = read((images[:48], labels[:48]))
    assert found.classes == ("0", "1", "2") and found.small == {}
    same = images[:48].copy()
    same[40:] = same[40]
    found = read((same, labels[:48]))
    assert found.classes == ("0", "1") and found.small == {"2": 1}


def test_the_size_is_the_usual_shorter_side_and_images_are_brought_to_it_smoothly() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (16, 24, 40, 3)).astype(np.uint8)
    assert read((wide, np.arange(16) % 2)).size == 24
    board = (np.indices((16, 16)).sum(0)[..., None] % 2 * 255).astype(np.uint8)
    assert np.ptp(reading.resized(board, 8, 1)) < 60


def test_the_smallest_the_middle_and_the_largest_image_by_area_are_told_as_width_and_height() -> None:
    shapes = np.array([[10, 20], [40, 40], [30, 20], [5, 5]])
    assert reading._sizes(shapes) == ((5, 5), (20, 30), (40, 40))


def test_a_label_or_a_pixel_makes_another_set() -> None:
    images, labels = arrays()
    known = read((images, labels)).fingerprint
    other, changed = labels.copy(), images.copy()
    other[0], changed[0, 0, 0, 0] = 1, changed[0, 0, 0, 0] ^ 1
    assert len({known, read((images, other)).fingerprint, read((changed, labels)).fingerprint}) == 3
