from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import bdbench
from bdbench import Role
from bdbench.cli import cli


@pytest.fixture
def run(tiny: dict[str, Any]) -> Path:
    found = bdbench.run(defense="random", **tiny)
    return tiny["out"] / found.id


def export(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_an_npz_holds_all_of_a_run_and_is_a_data_set(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "set.npz"
    result = export("npz", run.name, file, "--out", run.parent)
    assert result.exit_code == 0, result.output
    opened = bdbench.reopen(run, device="cpu")
    poisoned, test = opened.poisoned, opened.clean.test
    with np.load(file, allow_pickle=False) as arrays:
        assert np.array_equal(arrays["x_train"], poisoned.images)
        assert np.array_equal(arrays["y_train"], poisoned.labels)
        assert np.array_equal(arrays["roles"], poisoned.roles)
        assert np.array_equal(arrays["original_labels"], poisoned.original_labels)
        assert np.array_equal(arrays["x_test"], np.asarray(test.images))
        places, triggered = arrays["index_triggered"], arrays["x_triggered"]
        assert opened.challenge is not None
        assert np.array_equal(places, np.flatnonzero(test.labels != 0))
        assert np.array_equal(triggered, opened.challenge.images)
        assert np.array_equal(arrays["original_triggered"], test.labels[places])
        assert not arrays["y_triggered"].any()
        # The subset's places in the whole set: there its clean images are these.
        index = arrays["index"]
    own = bdbench.load("digits", reserve=0).train
    whole = np.asarray(own.images)[np.argsort(own.places)]
    clean = poisoned.roles == Role.CLEAN
    assert len(whole) > len(index) and np.array_equal(whole[index[clean]], poisoned.images[clean])
    again = bdbench.load(f"npz:path={file}", reserve=0).train
    assert np.array_equal(np.asarray(again.images), poisoned.images[again.places])


def test_parquet_holds_it_in_the_layout_of_hugging_face(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "set"
    result = export("parquet", run, folder)
    assert result.exit_code == 0, result.output
    opened = bdbench.reopen(run, device="cpu")
    table = parquet.read_table(folder / "data" / "train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": [str(d) for d in range(10)], "_type": "ClassLabel"}
    rows = table.to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))[..., None] for row in rows]
    assert np.array_equal(np.stack(images), opened.poisoned.images)
    for column in ("label", "original_label", "role", "index"):
        values = {"label": "labels", "original_label": "original_labels", "role": "roles"}
        expected = opened.places if column == "index" else getattr(opened.poisoned, values[column])
        assert [row[column] for row in rows] == expected.tolist()
    triggered = parquet.read_table(folder / "data" / "triggered-00000-of-00001.parquet")
    assert triggered.schema == table.schema
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n") and "path: data/triggered-*" in card
    again = export("parquet", run, folder)
    assert again.exit_code == 2 and "is there already" in again.stderr


def test_a_clean_run_has_no_triggered_part(tiny: dict[str, Any], tmp_path: Path) -> None:
    found = bdbench.run(defense="random", **{**tiny, "attack": "none"})
    result = export("npz", tiny["out"] / found.id, tmp_path / "set.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "set.npz") as arrays:
        assert not any("triggered" in name for name in arrays)


def test_folders_hold_it_under_names_that_tell_nothing(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    assert export("imagefolder", run, folder).exit_code == 0
    again = bdbench.load("imagefolder", data_root=folder, reserve=0)
    opened = bdbench.reopen(run)
    with (folder / "truth.csv").open() as file:
        truth = {row["path"]: row for row in csv.DictReader(file)}
    assert len(truth) == len(list(folder.rglob("*.png")))
    train = {path: row for path, row in truth.items() if path.startswith("train/")}
    assert len(train) == len(again.train.labels) == len(opened.poisoned.labels)
    poisons = [row for row in train.values() if row["role"] == "poison"]
    assert len(poisons) == opened.record.config["data"]["poisons"]
    assert all(row["label"] != row["original_label"] for row in poisons)
    for path, row in list(train.items())[:20]:
        place = int(Path(path).stem)
        pixels = np.asarray(Image.open(folder / path))
        assert np.array_equal(pixels, opened.poisoned.images[place, ..., 0])
        assert Path(path).parent.name == row["label"] == opened.clean.classes[opened.poisoned.labels[place]]
    assert export("imagefolder", run, folder).exit_code == 2  # it is there
