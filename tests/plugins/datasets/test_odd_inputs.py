"""Odd but legal input is read as a person sees it; for bad input there is one line."""

from __future__ import annotations

import io
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bdbench import BdbenchError, Dataset, ImageData, Source, decoded, load
from bdbench.images.data import checked_split
from bdbench_datasets.imagefolder import Files, ImageFolder
from bdbench_datasets.npz import Npz
from bdbench_datasets.vision import GTSRB, MNIST

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def rotated() -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(np.rot90(GREY)), "PNG", exif=exif.tobytes())


def over_nothing() -> Image.Image:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 255 - GREY
    return Image.fromarray(pixels)


def palette(**options: Any) -> io.BytesIO:
    image = Image.fromarray(GREY // 4, "P")
    image.putpalette(np.repeat(np.arange(64) * 4, 3).astype(np.uint8).tobytes())
    return encoded(image, "PNG", **options)


def animated() -> io.BytesIO:
    second = Image.fromarray(255 - GREY)
    return encoded(Image.fromarray(GREY), "GIF", save_all=True, append_images=[second])


SEEN: dict[str, Callable[[], io.BytesIO]] = {
    "8 bits": lambda: encoded(Image.fromarray(GREY)),
    "16 bits": lambda: encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16 bits in TIFF": lambda: encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "16 bits in PGM": lambda: io.BytesIO(b"P5 8 8 65535\n" + (GREY.astype(">u2") * 257).tobytes()),
    "32 bits that are 8": lambda: encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "transparent black on white": lambda: encoded(over_nothing()),
    "opaque RGBA": lambda: encoded(Image.fromarray(GREY).convert("RGBA")),
    "grey and alpha": lambda: encoded(Image.fromarray(GREY).convert("LA")),
    "palette": palette,
    "turned by EXIF": rotated,
    "CMYK": lambda: encoded(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "TIFF"),
    "animated": animated,
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", SEEN)
def test_images_are_read_as_they_are_seen(kind: str, mode: Any) -> None:
    pixels = decoded(SEEN[kind](), kind, mode=mode)
    assert pixels.shape == (8, 8, 3 if mode == "RGB" else 1)
    assert np.abs(pixels.astype(int) - GREY[..., None]).max() <= 1


def test_a_transparent_palette_lies_on_white_and_what_cannot_be_eight_bits_is_refused() -> None:
    assert decoded(palette(transparency=63), "it")[-1, -1].tolist() == [255] * 3
    assert decoded(palette(transparency=0), "it")[0, :2, 0].tolist() == [255, 4]
    for values in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)):
        with pytest.raises(BdbenchError, match="cannot read the image deep: its values are .*expected integers of 8"):
            decoded(encoded(Image.fromarray(values), "TIFF"), "deep")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SEEN)), st.data())
def test_damaged_images_give_one_line(kind: str, draw: st.DataObject) -> None:
    content = bytearray(SEEN[kind]().getvalue())
    for _ in range(3):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decoded(io.BytesIO(content[: draw.draw(st.integers(0, len(content)))]), "it")
    except BdbenchError as error:
        assert str(error).startswith("cannot read the image it: ")
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(GREY).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_what_a_folder_holds_beside_images_is_counted_and_named(folder: Path, caplog: Any) -> None:
    train = folder / "train"
    picture = (train / "ant" / "0.png").read_bytes()
    for name in ("ant/2023", ".ipynb_checkpoints", "@eaDir"):
        (train / name).mkdir()
        (train / name / "0.png").write_bytes(picture)
    (train / "bee" / "notes.txt").write_text("")
    (train / "bee" / "old.heic").write_bytes(picture)
    (folder / "test" / "aaa").mkdir()
    data = ImageFolder().read(Source(folder))
    assert data.classes == ("ant", "bee") and np.bincount(data.train.labels).tolist() == [4, 4]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{train}: read 8 images of 2 classes; left out: 2 hidden folders (.ipynb_checkpoints), "
        "1 nested folders (ant/2023), 2 files that are no images by their names (bee/notes.txt)",
        f"{folder / 'test'}: read 8 images of 2 classes; left out: 1 folders without images (aaa)",
    ]


def test_links_to_nothing_are_left_out_and_names_may_be_any_bytes(folder: Path, caplog: Any) -> None:
    ant = folder / "train" / "ant"
    (ant / "gone.png").symlink_to(folder / "nowhere.png")
    (ant / "round.png").symlink_to(ant / "round.png")
    os.rename(os.fsencode(ant / "3.png"), os.fsencode(ant) + b"/\xff.png")
    data = ImageFolder().read(Source(folder))
    assert np.bincount(data.train.labels).tolist() == [4, 4]
    assert "left out: 2 links to nothing (ant/gone.png)" in caplog.records[0].getMessage()
    assert np.asarray(data.train.images[np.arange(8)]).shape == (8, *GREY.shape, 3)
    assert isinstance(data.train.images, Files) and len(data.train.images.fingerprint()) == 64


def test_a_class_folder_without_images_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "train" / "aaa" / "inside").mkdir(parents=True)
    with pytest.raises(BdbenchError, match=r"train/aaa holds no images.*left out: 1 nested folders \(aaa/inside\)"):
        ImageFolder().read(Source(folder))


def test_class_names_in_two_unicode_forms_are_one(folder: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        (folder / part / "bee").rename(folder / part / unicodedata.normalize(form, "café"))
    assert ImageFolder().read(Source(folder)).classes == ("ant", "café")
    (folder / "train" / "ant").rename(folder / "train" / unicodedata.normalize("NFD", "café"))
    with pytest.raises(BdbenchError, match="two folders 'café'"):
        ImageFolder().read(Source(folder))


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir
    refused = folder / "train" / "bee"

    def iterdir(self: Path) -> Any:
        if self == refused:
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(BdbenchError, match="cannot read .*train/bee as a folder of images: Permission denied"):
        ImageFolder().read(Source(folder))


def arrays(n: int = 12) -> dict[str, Any]:
    labels = np.arange(n) % 3
    images = np.zeros((n, 8, 8), np.uint8) + labels[:, None, None].astype(np.uint8)
    return {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}


def npz(path: Path, **changes: Any) -> ImageData:
    np.savez(path / "d.npz", **{**arrays(), **changes})
    return load(Npz(path="d.npz"), data_root=path, reserve=0)


def test_labels_are_read_in_every_form_that_says_the_same(tmp_path: Path) -> None:
    y = arrays()["y_train"]
    expected = np.sort(npz(tmp_path).train.labels)
    for same in (y[:, None], y.astype(np.uint8), y.astype(">i4"), y.astype(np.uint64)):
        assert np.array_equal(np.sort(npz(tmp_path, y_train=same).train.labels), expected)
    named = npz(tmp_path, classes=np.array([b"a", "ä".encode(), b"c"]))
    assert named.classes == ("a", "ä", "c")
    x = arrays()["x_train"]
    for images in (np.asfortranarray(x), x / 255, (x / np.float32(255)).astype(">f4"), x[..., None]):
        assert np.array_equal(np.sort(npz(tmp_path, x_train=images).train.images.ravel()), np.sort(x.ravel()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_train": np.arange(12) % 3 + 1, "y_test": np.arange(12) % 3 + 1},
            r"labels are 1..3 with 3 different values",
        ),
        ({"y_train": np.where(np.arange(12) == 0, 2**40, np.arange(12) % 3)}, r"labels are 0..1099511627776 with 4"),
        ({"y_train": np.arange(12) % 2}, r"class 2 \('2'\) has no training images: expected some of each of 3"),
        ({"classes": list("abcde")}, r"class 3 \('d'\) and 1 others have no training images"),
        ({"classes": list("aba")}, r"classes 0 and 2 are both called 'a'"),
        ({"classes": [["a", "b", "c"]]}, r"classes have shape \(1, 3\)"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(12) % 3]}, r"int64 of shape \(12, 3\).*one-hot"),
        ({"y_train": np.arange(12) % 3 * 1.0}, r"labels are float64"),
        ({"y_train": (np.arange(12) % 3).astype("timedelta64[s]")}, r"labels are timedelta64\[s\]"),
        ({"x_train": np.zeros((12, 0, 8), np.uint8)}, r"images have no pixels, in shape \(12, 0, 8, 1\)"),
        (
            {"x_train": np.zeros((12, 3, 8, 9), np.uint8)},
            r"shape \(12, 3, 8, 9\).*\.transpose\(0, 2, 3, 1\) turns them",
        ),
        ({"y_train": np.arange(12) % 3 - 1}, r"labels are -1..2 with 4"),
        ({"x_train": np.full((12, 8, 8), 300, np.uint16)}, r"images are uint16"),
        ({"x_train": np.full((12, 8, 8), 1.1)}, r"images are float64 in 1.1..1.1"),
    ],
)
def test_labels_and_images_that_mean_nothing_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match=message):
        npz(tmp_path, **changes)


def test_a_rounding_above_one_is_one() -> None:
    assert checked_split("test", np.full((1, 2, 2), 1 + 1e-4), np.zeros(1, int), "a").images.max() == 255


@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_damaged_npz_files_give_one_line(draw: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("npz")
    file = io.BytesIO()
    np.savez_compressed(file, **arrays())
    content = bytearray(file.getvalue())
    for _ in range(3):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    (folder / "d.npz").write_bytes(content[: draw.draw(st.integers(0, len(content)))])
    try:
        Npz(path="d.npz").read(Source(folder))
    except BdbenchError as error:
        assert "\n" not in str(error)


def test_files_that_are_none_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as file:
        file.writestr("x_train.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<i8',")
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as file:
        file.writestr("x_train.npy", b"no array")
    for name in ("pipe.npz", "empty.npz", "odd.npz", "bytes.npz"):
        with pytest.raises(BdbenchError, match=f"cannot read .*{name}"):
            Npz(path=name).read(Source(tmp_path))


@pytest.mark.parametrize("dataset", [MNIST(), GTSRB()])
def test_damaged_files_of_torchvision_give_one_line(dataset: Dataset, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08")
    base = tmp_path / "gtsrb"
    (base / "GTSRB" / "Training" / "00000").mkdir(parents=True)
    (base / "GTSRB" / "Training" / "00000" / "0.ppm").write_bytes(b"P6 4 4 255\n")
    (base / "GTSRB" / "Final_Test" / "Images").mkdir(parents=True)
    (base / "GT-final_test.csv").write_text("Filename,ClassId\n0.ppm,1\n")
    with pytest.raises(BdbenchError, match=f"{dataset.name} was not found in .*, or its files are damaged"):
        dataset.read(Source(tmp_path))


def test_a_damaged_image_of_gtsrb_is_named(tmp_path: Path) -> None:
    base = tmp_path / "gtsrb" / "GTSRB"
    (base / "Training" / "00000").mkdir(parents=True)
    (base / "Training" / "00000" / "0.ppm").write_bytes(b"P6 4 4 255\n")
    (base / "Final_Test" / "Images").mkdir(parents=True)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;1\n")
    with pytest.raises(BdbenchError, match=r"cannot read the image .*0\.ppm"):
        GTSRB().read(Source(tmp_path)).train.images[np.arange(1)]


def test_arrays_that_do_not_fit_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file can hold very large ones; those that nobody asked for do not matter."""
    zeros = np.zeros((1000, 100, 100), np.uint8)
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 2**20)
    np.savez_compressed(tmp_path / "d.npz", **arrays(), other=zeros)
    assert len(Npz(path="d.npz").read(Source(tmp_path)).train.labels) == len(arrays()["y_train"])
    np.savez_compressed(tmp_path / "d.npz", **{**arrays(), "x_train": zeros})
    assert (tmp_path / "d.npz").stat().st_size < 2**18
    with pytest.raises(BdbenchError, match=r"d\.npz holds needs .* of memory, .*: expected smaller arrays"):
        Npz(path="d.npz").read(Source(tmp_path))
