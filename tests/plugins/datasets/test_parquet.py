from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bdbench
from bdbench import BdbenchError, ImageData, Source, Streams, export
from bdbench.images.preparation import prepare
from bdbench.testing import check_dataset
from bdbench_datasets.parquet import Parquet
from tests.conftest import in_order

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(path: Path, part: slice = slice(None), columns: dict[str, Any] | None = None, **metadata: Any) -> None:
    """Some of IMAGES and LABELS as Hugging Face writes them; ``columns`` replaces or adds some."""
    table: dict[str, Any] = {
        "img": pyarrow.array([{"bytes": encoded(image), "path": None} for image in IMAGES[part]], IMAGE),
        "label": pyarrow.array(LABELS[part], pyarrow.int64()),
        **(columns or {}),
    }
    found = pyarrow.table({name: values for name, values in table.items() if values is not None})
    features = {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    told = metadata.get("huggingface", json.dumps({"info": {"features": features}}))
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(found.replace_schema_metadata(told and {"huggingface": told}), path, row_group_size=4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", slice(0, 10))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", slice(10, 20))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", slice(20, 30))
    return tmp_path


def read(root: Path, **parameters: Any) -> ImageData:
    data = Parquet(**parameters).read(Source(root))
    return in_order(prepare(data, subset=parameters.get("subset"), streams=Streams(0)))


@pytest.mark.parametrize("kept", [2**30, 0])
def test_rows_of_all_files_are_read_in_order(root: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr("bdbench_datasets.parquet._KEPT_BYTES", kept)
    data = read(root)
    assert data.classes == ("ant", "bee", "cat")
    assert np.array_equal(data.train.images, IMAGES[:20]) and np.array_equal(data.train.labels, LABELS[:20])
    assert np.array_equal(data.test.images, IMAGES[20:]) and np.array_equal(data.test.labels, LABELS[20:])
    images = Parquet().read(Source(root)).train.images
    assert np.array_equal(images[np.array([19, 0, 7, 7])], IMAGES[[19, 0, 7, 7]])


def test_it_keeps_the_contract(root: Path) -> None:
    check_dataset(Parquet, root)


def test_only_the_subset_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_datasets import parquet as module

    places: list[str] = []
    original = module.decoded
    monkeypatch.setattr(
        module, "decoded", lambda file, where, *rest: places.append(where) or original(file, where, *rest)
    )
    assert len(read(root, subset=6).train.labels) == 6
    assert sum("train" in where for where in places) == 6


def test_it_is_known_by_its_files_before_they_are_decoded(root: Path) -> None:
    def known(**parameters: Any) -> str:
        return prepare(Parquet(**parameters).read(Source(root)), subset=3, streams=Streams(0)).source

    before = known()
    assert known() == before != known(grey=True)
    write(root / "data" / "train-00001-of-00002.parquet", slice(9, 19), {"label": LABELS[10:20]})
    assert known() != before


def test_grey_and_size_and_names_are_parameters(root: Path) -> None:
    from bdbench_datasets.imagefolder import ImageFolder

    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in IMAGES[:20]]
    assert np.array_equal(read(root, grey=True).train.images[..., 0], grey)
    for place, image in enumerate(IMAGES):
        path = root / ("train" if place < 20 else "test") / str(LABELS[place]) / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    # As the image folder of the same files: it has them class by class.
    folder = prepare(ImageFolder(size=8).read(Source(root)), streams=Streams(0)).test.images
    assert np.array_equal(np.asarray(folder), read(root, size=8).test.images[np.argsort(LABELS[20:], kind="stable")])
    fine = {"label": None, "fine": LABELS[:20], "image_of": [encoded(image) for image in IMAGES[:20]]}
    write(root / "validation.parquet", slice(0, 20), {**fine, "img": None}, huggingface=None)
    write(root / "training.parquet", slice(0, 20), {**fine, "img": None}, huggingface=None)
    data = read(root, train="training", test="validation", label="fine", image="image_of")
    assert data.classes == ("0", "1", "2") and np.array_equal(data.test.images, IMAGES[:20])


def test_what_a_run_exports_is_a_data_set_again(tiny: dict[str, Any], tmp_path: Path) -> None:
    found = bdbench.run(defense="random", **tiny)
    run = bdbench.reopen(tiny["out"] / found.id, device="cpu")
    export.write_parquet(run, tmp_path / "set")
    data = read(tmp_path / "set", grey=True)
    assert np.array_equal(data.train.images, run.poisoned.images)
    assert np.array_equal(data.train.labels, run.poisoned.labels)
    assert np.array_equal(data.test.images, np.asarray(run.clean.test.images)) and data.classes == run.clean.classes


TRAIN = "data/train-00001-of-00002.parquet"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"columns": {"img": None}}, r"has the columns label: no 'image'; expected image or img, or parquet:image=NAME"),
    ({"columns": {"label": None}}, "no 'label'; expected label or labels, or parquet:label=NAME"),
    ({"columns": {"img": LABELS[:20]}}, "column 'img' is int64: expected encoded images, struct<bytes, path>"),
    ({"columns": {"label": list("abcd" * 5)}}, "column 'label' is string: expected integers"),
    ({"columns": {"label": [None, *LABELS[:19]]}}, "column 'label' has no value in some rows: expected integers"),
    ({"columns": {"label": LABELS[:20] - 1}}, "label -1: expected 0 or more; parquet:test=NAME reads other files"),
    ({"columns": {"label": LABELS[:20] + 1}}, r"training labels are int64 in 0..3: expected integers in 0..2"),
    ({"huggingface": "{"}, "its metadata 'huggingface' are not readable"),
    ({"huggingface": '{"info": []}'}, "its metadata 'huggingface' are not readable"),
    ({"huggingface": '{"info": {"features": {"label": {"names": ["x"]}}}}'}, "name their classes differently"),
    (
        {"columns": {"img": pyarrow.array([{"bytes": None, "path": "a.png"}] * 20, IMAGE)}},
        r"there are no bytes in row \d of row group \d",
    ),
    ({"columns": {"img": [{"bytes": b"no image", "path": ""}] * 20}}, r"the image in row \d of row group \d"),
    ({"columns": {"img": [{"bytes": encoded(IMAGES[0, :4]), "path": ""}] * 20}}, "set parquet:size=N"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_odd_files_are_said_in_one_line(root: Path, changes: dict[str, Any], message: str) -> None:
    write(root / TRAIN, slice(0, 20), **changes)
    with pytest.raises(BdbenchError, match=message) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_broken_is_said_with_its_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BdbenchError, match="no valid-.*parquet in .* or in its folder data"):
        read(root, test="valid")
    with pytest.raises(BdbenchError, match="has the columns img, label: no 'fine'; expected one of these"):
        read(root, label="fine")
    (root / TRAIN).write_bytes((root / TRAIN).read_bytes()[:-9])
    with pytest.raises(BdbenchError, match=f"cannot read .*{TRAIN} as parquet"):
        read(root)
    write(root / TRAIN, slice(0, 0))
    assert len(read(root).train.labels) == 10
    (root / TRAIN).unlink()
    with pytest.raises(BdbenchError, match=r"files train-\* in .*data: 1; expected 2, by their names"):
        read(root)
    write(root / "train.parquet", slice(0, 0))
    with pytest.raises(BdbenchError, match="has no rows"):
        read(root)
    with pytest.raises(BdbenchError, match="needs --data-root"):
        Parquet().read(Source())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BdbenchError, match=r"needs pyarrow: expected pip install 'bdbench\[parquet\]'"):
        Parquet().read(Source(root))


def test_a_column_whose_name_is_no_text_is_said_in_one_line(root: Path) -> None:
    (file, *_) = sorted(root.rglob("train*.parquet"))
    file.write_bytes(file.read_bytes().replace(b"label", b"\xf0abel"))
    with pytest.raises(BdbenchError, match=rf"cannot read .*{file.name} as parquet: 'utf-8' codec can't decode"):
        read(root)


def test_rows_of_files_of_one_name_are_told_apart(root: Path) -> None:
    paths = [root / part / "train.parquet" for part in "ab"]
    for path in paths:
        write(path, slice(0, 10))
    names = Parquet().browse(paths).names
    assert [names[0], names[10]] == ["a/train.parquet#0", "b/train.parquet#0"] and len(set(names)) == 20
    assert Parquet().browse(paths[:1]).names[3] == "train.parquet#3"
    with pytest.raises(BdbenchError, match=r"a/train\.parquet is given twice: expected each file once"):
        Parquet().browse([paths[0], root / "b" / ".." / "a" / "train.parquet"])


def test_a_label_without_a_name_is_one_line(root: Path) -> None:
    write(root / "train.parquet", columns={"label": LABELS + 1})
    with pytest.raises(
        BdbenchError, match=r"train\.parquet: label 3: expected at most 2, since its metadata name 3 of"
    ):
        Parquet().browse([root / "train.parquet"])


def test_of_a_folder_the_training_part_is_scanned_alone(root: Path) -> None:
    data = root / "data"
    write(data / "validation-00000-of-00001.parquet", slice(0, 5))
    listing = Parquet().browse([root])
    assert listing.labels.tolist() == LABELS[:20].tolist() and listing.test is not None and len(listing.test) == 10
    assert listing.beside == (("validation-00000-of-00001.parquet", "files of other parts"),)
    # Of a set without a test part the validation part is one; and one whose labels are not published is none.
    (data / "test-00000-of-00001.parquet").unlink()
    listing = Parquet().browse([root])
    assert len(listing) == 20 and listing.test is not None and len(listing.test) == 5 and not listing.beside
    write(data / "test-00000-of-00001.parquet", slice(20, 30), {"label": np.full(10, -1)})
    listing = Parquet().browse([root])
    assert len(listing) == 20 and listing.test is None and "test-00000-of-00001.parquet" in dict(listing.beside)
    # What is named is meant.
    assert len(Parquet().browse(sorted(data.glob("[tv][ra]*.parquet")))) == 25
    (data / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(BdbenchError, match=r"files train-\* in .*: 1; expected 2, by their names"):
        Parquet().browse([root])


def test_a_name_in_capitals_is_one_of_parquet(tmp_path: Path) -> None:
    write(tmp_path / "ALL.PARQUET")
    for given in (tmp_path, tmp_path / "ALL.PARQUET"):
        assert Parquet.takes([given]) and len(Parquet().browse([given])) == 30
