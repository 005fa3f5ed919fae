"""A detector of bdbench as a detection method of BackdoorBench: the files, and what they call there."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from bdbench import BdbenchError, Role, bars, detect, detector, most_suspicious, write_file
from bdbench_backdoorbench.known import CLEAN_SETS, MODELS
from bdbench_backdoorbench.record import read

# What the method imports there, or is put beside.
_PARTS = ("detection_pretrain", "defense/base.py", "utils/save_load_attack.py")
_COLUMNS = ("record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target")


def write(folder: Path, spec: str) -> list[Path]:
    """Write the method and a configuration for each data set below ``folder``, BackdoorBench's root; their paths.

    spec: a detector, NAME:KEY=VALUE,... Raises BdbenchError if there is none such or the place cannot be written.
    """
    found = detector(spec)
    name = found.name
    if found.told:
        raise BdbenchError(
            f"detector {name!r} needs the oracle {found.told[0]!r}, which BackdoorBench's methods are not given: "
            "expected another detector"
        )
    missing = [part for part in _PARTS if not (folder / part).exists()]
    if missing:
        raise BdbenchError(f"{folder} is not BackdoorBench's root: expected a folder with {missing[0]} in it")
    # Python looks for modules beside the script first: it must not be called as a package that it needs is.
    method = name.replace("-", "_") + "_of_bdbench"
    package = resources.files("bdbench_backdoorbench")
    code = Template(package.joinpath("method.py.template").read_text()).substitute(method=method, name=name)
    written = {folder / "detection_pretrain" / f"{method}.py": code}
    for dataset in CLEAN_SETS:
        quoted = spec.replace("'", "''")  # as in YAML
        config = f"dataset: {dataset}\ndefense: '{quoted}'\nbudget: 0.1\nrandom_seed: 0\ndevice: auto\n"
        written[folder / "config" / "detection" / method / f"{dataset}.yaml"] = config
    for path, text in written.items():
        write_file(path, text)
    return list(written)


def check(record: str) -> None:
    """Raise BdbenchError for a record, below ``record/``, that ``run_inside`` cannot score: none, or an odd one."""
    known = read(Path("record") / record)
    known.training_set()
    known.clean_set()


def run_inside(result: Mapping[str, Any], record: str, save_path: str, options: Mapping[str, Any]) -> None:
    """Score the training set of a record as BackdoorBench has loaded it, and write what its methods write.

    result: of its load_attack_result; record: the name below ``record/``; options: defense, budget, random_seed,
    device. Writes ``detection_info.csv``, in which, as in BackdoorBench, every example it marks as poisoned is one,
    and ``scores.npz``: scores, roles (which tell cover examples apart) and kept, in the set's order.
    Raises BdbenchError for a record without a training set, or on a data set that is not known.
    """
    known = read(Path("record") / record)
    train, clean = known.training_set(), known.clean_set()
    images, labels, index, marked = _arrays(result["bd_train"].wrapped_dataset, clean.shape)
    victim, model = None, MODELS.get(known.model_name, "convnet")
    if known.model_name in MODELS:
        victim = clean.victim(known.state)
    with bars() as progress:
        scores = detect(
            options["defense"],
            images,
            labels,
            num_classes=known.num_classes,
            model=model,
            victim=victim,
            dataset=clean.name,
            seed=int(options["random_seed"]),
            device=options["device"],
            folder=Path(save_path) / ".stages",
            progress=progress,
        )
    kept = np.ones(len(scores), bool)
    kept[most_suspicious(scores, float(options["budget"]), int(options["random_seed"]))] = False
    roles = np.full(train.size, Role.CLEAN, np.int8)
    roles[train.changed] = known.roles()
    np.savez_compressed(Path(save_path) / "scores.npz", scores=scores, roles=roles[index], kept=kept)
    _append(Path(save_path) / "detection_info.csv", [record, *_confusion(marked, ~kept), "Unknown"])


def _arrays(dataset: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images resized as its transforms do, labels trained on, places in the clean set, and its marks."""
    from PIL import Image

    images = np.empty((len(dataset), *shape), np.uint8)
    columns = []
    for i in range(len(dataset)):
        image, label, index, marked, *_ = dataset[i]
        image = image.convert("L" if shape[2] == 1 else "RGB")
        if image.size != (shape[1], shape[0]):
            image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        images[i] = np.asarray(image).reshape(shape)
        columns.append((label, index, marked))
    labels, places, marks = np.array(columns, np.int64).T
    return images, labels, places, marks != 0


def _confusion(marked: np.ndarray, suspected: np.ndarray) -> list[float]:
    """TN, FP, FN, TP, TPR and FPR; a rate of nothing is 0, as there."""
    tn, fp = int((~marked & ~suspected).sum()), int((~marked & suspected).sum())
    fn, tp = int((marked & ~suspected).sum()), int((marked & suspected).sum())
    return [tn, fp, fn, tp, tp / max(tp + fn, 1), fp / max(fp + tn, 1)]


def _append(path: Path, row: list[Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_COLUMNS)
        writer.writerow(row)
