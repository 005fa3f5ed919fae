"""A run as plain files: its poisoned set as npz, image parquet or folders of images, and its victim."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells.runs import Reopened
from bdbench.components import configs
from bdbench.errors import BdbenchError
from bdbench.images.data import Role
from bdbench.images.decoding import encoded
from bdbench.networks import checkpoint
from bdbench.progress import Track, quiet
from bdbench.storage.store import write_file, written_whole

Columns = dict[str, np.ndarray]


def splits(run: Reopened) -> dict[str, Columns]:
    """The parts of a run's data: train (poisoned), test (clean) and, where something is attacked, triggered.

    Columns: image uint8 (m, H, W, C); label int64, the one trained on or the attacker's goal (ANY_OTHER: -1);
    original_label int64; role int8, of Role; index int64, the example's place in the data set's training or test part.
    ``triggered`` holds the challenge: where the goal is the image's own label, it is a bystander, role COVER.
    """
    poisoned, test, challenge = run.poisoned, run.clean.test, run.challenge
    images = np.asarray(test.images)
    found = {
        "train": _columns(poisoned.images, poisoned.labels, poisoned.original_labels, poisoned.roles, run.places),
        "test": _columns(images, test.labels, test.labels, np.full(len(images), Role.CLEAN), test.places),
    }
    if challenge is not None:
        roles = np.where(run.attacked, Role.POISON, Role.COVER)
        own, places = test.labels[challenge.index], test.places[challenge.index]
        found["triggered"] = _columns(challenge.images, challenge.goal, own, roles, places)
    return found


def write_npz(run: Reopened, path: Path) -> None:
    """One file that ``--dataset npz:path=FILE`` reads, and beside what that reads, the truth.

    x_train, y_train: the poisoned set; roles, original_labels, index: as in ``splits``; x_test, y_test: clean;
    x_triggered, y_triggered, original_triggered, index_triggered: the triggered test images, their goals, their own
    labels and places; classes. Raises BdbenchError if the place cannot be written.
    """
    parts = splits(run)
    train, test = parts["train"], parts["test"]
    arrays = {
        "x_train": train["image"],
        "y_train": train["label"],
        "roles": train["role"],
        "original_labels": train["original_label"],
        "index": train["index"],
        "x_test": test["image"],
        "y_test": test["label"],
        "classes": np.array(run.clean.classes),
    }
    if "triggered" in parts:
        names = {"image": "x", "label": "y", "original_label": "original", "index": "index"}
        arrays |= {f"{short}_triggered": parts["triggered"][name] for name, short in names.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_file(path, file.getvalue())


def write_parquet(run: Reopened, folder: Path, track: Track = quiet) -> None:
    """A new folder that Hugging Face's ``load_dataset`` reads: a split a file, images as PNG, so without loss.

    Raises BdbenchError without pyarrow, or if the folder is there already or cannot be written.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise BdbenchError("parquet needs pyarrow: expected pip install 'bdbench[parquet]'") from None
    if folder.exists():
        raise BdbenchError(f"{folder} is there already: expected a new folder")
    parts = splits(run)
    advance = track(sum(len(p["label"]) for p in parts.values()), "write images")
    with written_whole(folder) as aside:
        (aside / "data").mkdir()
        for name, columns in parts.items():
            table = _table(columns, run.clean.classes, advance)
            parquet.write_table(table, aside / "data" / f"{name}-00000-of-00001.parquet")
        (aside / "README.md").write_text(_card(run, list(parts)))


def write_imagefolder(run: Reopened, folder: Path, track: Track = quiet) -> None:
    """A new folder of train/CLASS/NUMBER.png, test/ and, where something is attacked, triggered/, without loss.

    Numbers are places in the part, so that no name tells what an image is; truth.csv does: path, label,
    original_label, role and index as in ``splits``. Raises BdbenchError if the folder is there already, cannot be
    written, or a class has a name that no folder can have.
    """
    if folder.exists():
        raise BdbenchError(f"{folder} is there already: expected a new folder")
    classes = run.clean.classes
    for name in classes:
        if not name or name in (".", "..") or {"/", "\0"} & set(name):
            raise BdbenchError(f"class {name!r} cannot be the name of a folder: expected one without a slash")
    parts = splits(run)
    advance = track(sum(len(p["label"]) for p in parts.values()), "write images")
    with written_whole(folder) as aside:
        rows = []
        for part, columns in parts.items():
            for name in classes:
                (aside / part / name).mkdir(parents=True, exist_ok=True)
            for place, pixels in enumerate(columns["image"]):
                label, original, role, index = (
                    int(columns[k][place]) for k in ("label", "original_label", "role", "index")
                )
                # An attacker who wants any other label names none: such an image stays with its own.
                path = Path(part, classes[label if label >= 0 else original], f"{place:06}.png")
                (aside / path).write_bytes(encoded(pixels))
                names = (classes[label] if label >= 0 else "", classes[original])
                rows.append((str(path), *names, Role(role).name.lower(), index))
                advance(1)
        with (aside / "truth.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "original_label", "role", "index"])
            writer.writerows(rows)


def _columns(images: np.ndarray, labels: np.ndarray, originals: np.ndarray, roles: Any, index: np.ndarray) -> Columns:
    roles = np.asarray(roles, np.int8)
    return {"image": images, "label": labels, "original_label": originals, "role": roles, "index": index}


def _table(columns: Columns, classes: tuple[str, ...], advance: Any) -> Any:
    import pyarrow

    # Types and features as Hugging Face's datasets writes them.
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    numbers = [k for k in columns if k != "image"]
    fields = [("image", image), *((k, pyarrow.int64()) for k in numbers)]
    label = {"names": list(classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": label,
        "original_label": label,
        "role": {"names": [r.name.lower() for r in Role], "_type": "ClassLabel"},
        "index": {"dtype": "int64", "_type": "Value"},
    }
    schema = pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    pictures = []
    for pixels in columns["image"]:
        pictures.append({"bytes": encoded(pixels), "path": None})
        advance(1)
    return pyarrow.table([pictures, *(columns[k].astype(np.int64) for k in numbers)], schema=schema)


def _card(run: Reopened, names: list[str]) -> str:
    config = run.record.config
    files = "".join(f"  - split: {n}\n    path: data/{n}-*\n" for n in names)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}"
        "task_categories:\n- image-classification\n---\n\n"
        f"# {configs.labels([config['attack']])[0]} on {config['dataset']['name']}\n\n"
        f"The poisoned training set of the bdbench run `{run.record.id}`, its test set, and that set triggered.\n"
        "`label` is what is trained on, or what the attacker wants; `original_label` is the true one; `role` tells\n"
        "clean examples, poisons and cover examples (triggered, but correctly labelled) apart.\n"
    )


def write_victim(run: Reopened, path: Path) -> None:
    """The model that a run's defense met, as safetensors that ``bdbench inspect`` reads without being told of it.

    Raises BdbenchError without safetensors, or if the place cannot be written.
    """
    told = {
        "model": configs.spec(run.record.config["model"]),
        "classes": list(run.clean.classes),
        "shape": list(run.clean.shape),
    }
    checkpoint.write(path, run.victim(), told)
