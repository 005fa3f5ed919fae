from __future__ import annotations

import csv
import io
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bdbench
from bdbench import BdbenchError
from bdbench.images import decoding
from bdbench.scanning import files
from tests.scanning.conftest import CLASSES, EACH, STAMPED, Patch, arrays, write_folder

STAMPED_NAMES = {f"cat/{place:03}.png" for place in range(STAMPED)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "photos")


def test_a_scan_finds_the_stamped_images_and_leaves_its_files(
    folder: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    found = bdbench.scan(folder, defenses=["patch", "ranks"], report=out, **quick)
    assert found.outcome == "found" and found.exit_code == 1
    assert set(found.quarantine) == STAMPED_NAMES
    assert {path.name for path in out.iterdir()} == {
        "scan.json", "suspects.csv", "skipped.csv", "keep.txt", "quarantine.txt", "report.html", ".stages",
    }  # fmt: skip
    assert set(files.names_in(out / "quarantine.txt")) == STAMPED_NAMES
    keep = files.names_in(out / "keep.txt")
    assert len(keep) == 3 * EACH - STAMPED and not STAMPED_NAMES & set(keep)
    rows = list(csv.DictReader((out / "suspects.csv").open()))
    assert list(rows[0]) == ["path", "label", "score", "flagged", "group"] and len(rows) == 3 * EACH
    assert {row["path"] for row in rows[:STAMPED]} == STAMPED_NAMES
    assert [row["flagged"] for row in rows] == ["1"] * STAMPED + ["0"] * (3 * EACH - STAMPED)
    assert {row["group"] for row in rows[:STAMPED]} == {"cat"}
    told = files.read(out)
    assert told["verdict"]["images"] == STAMPED and told["verdict"]["classes"] == {"cat": STAMPED}
    assert told["detectors"][0]["evidence"] == {"cat": 1.0, "dog": 0.5}
    assert {one["id"] for one in told["identifiers"]} == {
        "AML.T0020", "AML.M0007", "NISTAML.021", "NISTAML.023", "ML02:2023", "ML10:2023",
    }  # fmt: skip
    assert found.groups[0].name == "cat"
    patch = found.groups[0].difference[-4:, -4:].mean()
    assert patch > 3 * abs(found.groups[0].difference[:-4, :-4].mean())
    assert found.groups[0].agreement[-4:, -4:].min() > 0.9 > found.groups[0].agreement[:8, :8].max()


def test_what_is_done_again_is_found_again(folder: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    first = bdbench.scan(folder, defenses=["patch"], report=tmp_path, **quick)
    before = {path for path in (tmp_path / ".stages").rglob("*") if path.is_dir()}
    again = bdbench.scan(folder, defenses=["patch"], report=tmp_path, **quick)
    assert {path for path in (tmp_path / ".stages").rglob("*") if path.is_dir()} == before
    assert again.seconds["patch"] == first.seconds["patch"]
    assert np.array_equal(again.scores, first.scores)


def test_every_form_of_a_set_gives_the_same_suspects(folder: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, classes=np.array(CLASSES))
    pairs = [(Image.fromarray(pixels), int(label)) for pixels, label in zip(images, labels, strict=True)]

    class Torchvision:
        classes = CLASSES
        targets = labels

        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, place: int) -> tuple[Any, int]:
            return pairs[place]

    class HuggingFace:
        column_names = ("img", "label")
        features = {"label": types.SimpleNamespace(names=list(CLASSES))}  # noqa: RUF012

        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, place: int | str) -> Any:
            if isinstance(place, str):
                return [label for _, label in pairs]
            return {"img": pairs[place][0], "label": pairs[place][1]}

    class Tensors(Torchvision):
        def __getitem__(self, place: int) -> tuple[Any, int]:
            return images[place].transpose(2, 0, 1) / np.float32(255), int(labels[place])

    class Undecoded(HuggingFace):
        def __getitem__(self, place: int | str) -> Any:
            if isinstance(place, str):
                return super().__getitem__(place)
            return {"img": {"bytes": decoding.encoded(images[place]), "path": "gone.png"}, "label": labels[place]}

    given = [
        (images, labels), Torchvision(), HuggingFace(), Tensors(), tmp_path / "set.npz",
        (images, np.array(CLASSES)[labels]), Undecoded(), {"test": Undecoded(), "train": HuggingFace()},
    ]  # fmt: skip
    for one in given:
        found = bdbench.scan(one, defenses=[Patch()], **quick)
        assert found.verdict.classes in ({"cat": STAMPED}, {"0": STAMPED}), type(one)
        numbers = sorted(int(name.rsplit("/", 1)[1]) for name in found.quarantine)
        assert numbers == list(range(STAMPED)), type(one)
    assert not list(tmp_path.glob("*/"))


def test_a_data_frame_of_structs_or_of_paths_is_scanned(folder: Path, quick: dict[str, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    images, labels = arrays()
    structs = [{"bytes": decoding.encoded(image), "path": None} for image in images]
    structs[-1] = {"bytes": b"no image", "path": None}
    structs[-2] = {"bytes": None, "path": None}
    # An index of its own is no place.
    frame = pandas.DataFrame({"image": structs, "label": labels}, index=range(7, 67))
    found = bdbench.scan(frame, defenses=["patch"], **quick)
    assert set(found.quarantine) == {f"rows/{place}" for place in range(STAMPED)}
    assert {odd.name for odd in found.read.skipped} == {"rows/58", "rows/59"}
    assert "cannot read the image rows/59: cannot identify" in str([odd.reason for odd in found.read.skipped])
    paths = sorted(folder.rglob("*.png"))
    frame = pandas.DataFrame({"path": [str(path) for path in paths], "label": [path.parent.name for path in paths]})
    found = bdbench.scan(frame, defenses=["patch"], **quick)
    assert set(found.quarantine) == {str(folder / name) for name in STAMPED_NAMES} and found.read.classes == CLASSES


def test_a_torchvision_image_folder_is_read_by_its_files(folder: Path, quick: dict[str, Any]) -> None:
    """What its transform makes of them would be scanned otherwise."""
    from torchvision.datasets import ImageFolder

    found = bdbench.scan(ImageFolder(str(folder), transform=lambda image: 1 / 0), defenses=["patch"], **quick)
    assert set(found.quarantine) == STAMPED_NAMES and found.read.listing.root == folder


def test_clean_small_and_broken(tmp_path: Path, quick: dict[str, Any]) -> None:
    assert bdbench.scan(arrays(stamped=0), defenses=["patch"], **quick).outcome == "nothing found"
    assert bdbench.scan(arrays(), defenses=["ranks"], **quick).outcome == "cannot tell"
    assert bdbench.scan(arrays(), defenses=["ranks", "breaks"], **quick).said[1].error is not None
    few = (arrays()[0][::10], arrays()[1][::10])
    tiny = bdbench.scan(few, defenses=["patch"], report=tmp_path, **quick)
    assert tiny.outcome == "cannot tell" and "0 classes" in tiny.verdict.sentence
    assert len(tiny.keep) == 6
    broken = bdbench.scan(arrays(), defenses=["breaks"], **quick)
    assert broken.outcome == "cannot tell" and "it broke" in broken.verdict.sentence
    with pytest.raises(BdbenchError, match="alpha"):
        bdbench.scan(arrays(), defenses=["datamodel:alpha=0.99"], **quick)


def test_a_model_is_trained_only_for_who_looks_into_it(tmp_path: Path, quick: dict[str, Any]) -> None:
    """Beside it one without what was marked; and who looks is given the model of the whole set."""

    def trained(folder: Path) -> int:
        stages = [json.loads(path.read_text())["config"] for path in folder.rglob("meta.json")]
        return sum(config["stage"] == "train" for config in stages)

    bdbench.scan(arrays(), defenses=["patch"], report=tmp_path / "one", **quick)
    found = bdbench.scan(arrays(), defenses=["patch", "low-loss"], report=tmp_path / "two", **quick)
    assert (trained(tmp_path / "one"), trained(tmp_path / "two")) == (1, 2)
    assert found.foresight is not None and [one.looks for one in found.foresight.detectors] == [False, True]
    assert found.foresight.trainings == 2


def test_copies_share_a_verdict(quick: dict[str, Any]) -> None:
    images, labels = arrays()
    found = bdbench.scan((np.concatenate([images, images[:2]]), np.append(labels, [0, 0])), defenses=["patch"], **quick)
    assert {"train/0", "train/1", "train/60", "train/61"} <= set(found.quarantine)
    assert len(found.quarantine) == STAMPED + 2


def test_seconds_go_to_the_detectors_that_can_be_told(quick: dict[str, Any]) -> None:
    found = bdbench.scan(arrays(), defenses=["patch", "ranks"], seconds=60, **quick)
    assert found.said[0].detector == Patch(seconds=60.0)
    with pytest.raises(BdbenchError, match="--seconds 60"):
        bdbench.scan(arrays(), defenses=["ranks"], seconds=60, **quick)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"defenses": ["neural-cleanse"]}, "unknown detector"),
        ({"defenses": ["patch", "patch"]}, "twice"),
        ({"defenses": ["perfect-filter"]}, "'perfect-filter' must be told 'poisons'"),
        ({"size": 2}, "size=2"),
        ({"subset": 0}, "subset=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seconds": "3"}, "seconds='3' is not allowed: expected a number of more than 0"),
        ({"subset": 30.5}, "subset=30.5 is not allowed: expected an integer of more than 1"),
        ({"size": 8.5}, "size=8.5 is not allowed: expected an integer of more than 7"),
        ({"defenses": []}, "there are no defenses"),
        ({"defenses": "nosuch"}, "unknown defense 'nosuch'"),
        ({"sizes": 8}, "unknown option 'sizes': did you mean 'size'"),
        ({"classes": 3}, "classes=3 is not allowed: expected a list of names"),
    ],
)
def test_options_are_checked(options: dict[str, Any], told: str, quick: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=told):
        bdbench.scan(arrays(), **{"defenses": ["patch"], **quick, **options})


class Rows:
    """A Dataset of Hugging Face without images."""

    column_names = ("text",)
    features: dict[str, Any] = {}  # noqa: RUF012


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda images, labels: images, "no labels"),
        (lambda images, labels: (images, labels[:5]), "60 images and labels"),
        (lambda images, labels: (images, labels - 1), "labels"),
        (lambda images, labels: (images.astype(float) * np.nan, labels), "NaN"),
        (lambda images, labels: [(image, -1) for image in images], "expected integers >= 0"),
        (lambda images, labels: 7, "cannot scan int: expected a path, .* or a DataFrame of images or paths and labels"),
        (lambda images, labels: {"images": images}, "cannot scan dict: expected a path"),
        (
            lambda images, labels: {"test": Rows(), "dev": Rows()},
            "the splits 'test', 'dev' and no 'train': expected one",
        ),
        (lambda images, labels: Rows(), "the data set has the columns text: expected image or img"),
        (lambda images, labels: (images, labels * np.nan), "labels are float64: expected integers, or names"),
    ],
)
def test_what_is_no_set_is_refused(given: Any, told: str, quick: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=told):
        bdbench.scan(given(*arrays()), defenses=["patch"], **quick)


def test_labels_that_are_ids_are_names(quick: dict[str, Any]) -> None:
    """And take no place for all the numbers between them."""
    images, labels = arrays()
    ids = np.array([5, 1000, 2**31])[labels]
    by_ids = bdbench.scan(images, ids, defenses=["patch"], **quick)
    plain = bdbench.scan(images, labels, defenses=["patch"], **quick)
    assert by_ids.read.classes == ("5", "1000", "2147483648") and by_ids.quarantine == plain.quarantine
    pairs = list(zip(images, (labels + 1).tolist(), strict=True))
    assert bdbench.scan(pairs, defenses=["patch"], **quick).read.classes == ("1", "2", "3")
    names = np.array([b"cat", b"dog", b"ship"])[labels]
    assert bdbench.scan(images, names, defenses=["patch"], **quick).read.classes == ("cat", "dog", "ship")


def test_names_of_any_kind_are_kept_and_harmless(tmp_path: Path, quick: dict[str, Any]) -> None:
    """Formulas, markup, line breaks and bytes that are no text."""
    root = write_folder(tmp_path / "set")
    odd = [
        "=cmd|'x'!A1.png",
        "<img src=x onerror=alert(1)>.png",
        "two\nlines.png",
        '"quoted".png',
        "\udcff.png",
        "@a.png",
    ]
    for place, name in enumerate(odd):
        (root / "cat" / f"{place:03}.png").rename(root / "cat" / name)
    (root / "cat").rename(root / "=cat")
    out = tmp_path / "out"
    found = bdbench.scan(root, defenses=["patch"], report=out, **quick)
    assert set(files.names_in(out / "quarantine.txt")) == {f"=cat/{name}" for name in odd} == set(found.quarantine)
    with (out / "suspects.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 3 * EACH + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))]
    named = {json.loads(path) if path.startswith('"') else path.removeprefix("'") for path, *_ in rows[1:]}
    assert named == {*found.quarantine, *found.keep}
    page = (out / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page
    json.loads((out / "scan.json").read_text())


def test_all_that_is_skipped_is_listed(tmp_path: Path, quick: dict[str, Any]) -> None:
    root = write_folder(tmp_path / "set")
    for i in range(3):
        (root / "cat" / f"broken{i}.png").write_bytes(b"no image")
    (root / "dog" / "notes.txt").write_text("no image either")
    bdbench.scan(root, defenses=["patch"], report=tmp_path / "out", **quick)
    listed = {row["path"]: row["reason"] for row in csv.DictReader((tmp_path / "out" / "skipped.csv").open())}
    assert set(listed) == {*(f"cat/broken{i}.png" for i in range(3)), "dog/notes.txt"} and all(listed.values())


def test_parquet_is_scanned_by_its_files_or_their_folder(tmp_path: Path, quick: dict[str, Any]) -> None:
    """Rows are named by their file and place; the test part is none of them, and a broken image is left out."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images, labels = arrays()
    encoded = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    encoded[-1] = {"bytes": b"no image", "path": None}
    table = pyarrow.table({"image": encoded, "label": labels})
    for part in ("train", "test"):
        parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet", row_group_size=7)
    for given in (tmp_path, [tmp_path / "train-00000-of-00001.parquet"]):
        found = bdbench.scan(given, defenses=["patch"], **quick)
        assert set(found.quarantine) == {f"train-00000-of-00001.parquet#{row}" for row in range(STAMPED)}
        assert len(found.read.listing) == 3 * EACH
        assert [odd.name for odd in found.read.skipped] == [f"train-00000-of-00001.parquet#{3 * EACH - 1}"]
        assert (found.read.listing.test is not None) == (given == tmp_path)


def test_the_pictures_of_a_group_come_in_the_order_of_the_suspects(quick: dict[str, Any]) -> None:
    """Whichever detector is named first: the list is by the one that decides."""
    found = bdbench.scan(arrays(), defenses=["ranks", "patch"], **quick)
    (group,) = found.groups
    shown = [found.read.listing.names[place] for place in found.read.places[group.rows].tolist()]
    assert shown == [one.name for one in found.suspects() if one.flagged]
