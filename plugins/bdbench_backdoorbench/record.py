"""A record of BackdoorBench: ``attack_result.pt`` and the images beside it, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from bdbench import BdbenchError, Role, check_regular, reading, unknown
from bdbench_backdoorbench.known import CLEAN_SETS, CleanSet
from bdbench_backdoorbench.unpickling import load

RESULT = "attack_result.pt"
# Our own exporter adds the roles of the changed training examples; BackdoorBench has no such key.
ROLES = "bdbench_roles"
_KEYS = ("model_name", "num_classes", "model", "clean_data", "img_size", "bd_train", "bd_test")
# None where an attacker trains the model himself and keeps no poisoned set.
_MAY_BE_NONE = "bd_train"


@dataclass(frozen=True)
class Part:
    """The training or the test set of a record. N is the size of the clean set, m of this one, k of the changed.

    index: int64 (m,), the clean set's example at each place; changed: sorted int64 (k,), the clean set's examples
    that the attack replaced; labels, original_labels: int64 (k,), theirs; size: N; images: one a changed example,
    a file or a PIL image.
    """

    index: np.ndarray
    changed: np.ndarray
    labels: np.ndarray
    original_labels: np.ndarray
    size: int
    images: tuple[Any, ...]

    def decoded(self, shape: tuple[int, ...]) -> np.ndarray:
        """The changed images, uint8 (k, H, W, C). Raises BdbenchError for one that is not of ``shape``."""
        out = np.empty((len(self.images), *shape), np.uint8)
        for i, source in enumerate(self.images):
            out[i] = _pixels(source, shape, f"the changed image of example {self.changed[i]}")
        return out


@dataclass(frozen=True)
class AttackResult:
    """What a record holds. state: the victim's weights by their names there; train, test: the poisoned sets; own_roles:
    those of the changed training examples, int8 (k,), where bdbench wrote the record. train is None if none was saved.
    """

    folder: Path
    model_name: str
    num_classes: int
    clean_data: str
    img_size: tuple[int, ...]
    state: Mapping[str, np.ndarray]
    train: Part | None
    test: Part
    own_roles: np.ndarray | None

    def training_set(self) -> Part:
        """The poisoned training set. Raises BdbenchError if the record has none."""
        if self.train is None:
            raise BdbenchError(
                f"the record {self.folder} cannot be imported: it holds no training set, as BackdoorBench's blind and "
                "lira save none, whose attacker trains the model himself; its victim can be inspected: "
                f"--attack backdoorbench-victim:record={self.folder}"
            )
        return self.train

    def clean_set(self) -> CleanSet:
        """What is known of the data set it was made on. Raises BdbenchError if that is nothing."""
        if self.clean_data not in CLEAN_SETS:
            raise unknown("BackdoorBench data set", self.clean_data, CLEAN_SETS)
        return CLEAN_SETS[self.clean_data]

    def targets(self) -> tuple[int, ...]:
        """The labels that the triggers are to give, sorted: one if all-to-one, in general all if all-to-all."""
        return tuple(np.unique(self.test.labels).tolist())

    def roles(self) -> np.ndarray:
        """The Role of each changed training example, int8 (k,).

        BackdoorBench counts WaNet's, input-aware's and BPP's noise examples as poisons although their labels are
        right. They are COVER here. Where no label is changed at all the attack is clean-label, and its poisons are
        the examples of a label the attacker wants.
        """
        if self.own_roles is not None:
            return self.own_roles
        train = self.training_set()
        poison = train.labels != train.original_labels
        if not poison.any():
            poison = np.isin(train.labels, self.targets())
        return np.where(poison, Role.POISON, Role.COVER).astype(np.int8)


def read(record: str | Path) -> AttackResult:
    """The record in a folder (or of that attack_result.pt). Raises BdbenchError for what is missing or odd."""
    folder = Path(record)
    folder = folder.parent if folder.name == RESULT else folder
    if not (folder / RESULT).is_file():
        raise BdbenchError(f"no record at {folder}: expected a folder with {RESULT}")
    data = load(folder / RESULT)
    held = (
        [k for k in _KEYS if k in data and (data[k] is not None or k == _MAY_BE_NONE)] if isinstance(data, dict) else []
    )
    missing = [k for k in _KEYS if k not in held]
    if missing:
        raise BdbenchError(f"{folder / RESULT} has no {missing[0]!r}: expected {', '.join(_KEYS)}")
    if np.shape(data["img_size"]) != (3,):
        raise BdbenchError(f"{folder / RESULT}: img_size is {data['img_size']!r}: expected three numbers, H, W and C")
    with reading(folder / RESULT, "a record of BackdoorBench v2"):
        return _result(folder, data)


def _result(folder: Path, data: Mapping[str, Any]) -> AttackResult:
    state = {k.removeprefix("module."): v for k, v in data["model"].items() if isinstance(v, np.ndarray)}
    classes = _whole(data["num_classes"])
    test = _part(folder, "bd_test", data["bd_test"], classes)
    train = None if data["bd_train"] is None else _part(folder, "bd_train", data["bd_train"], classes)
    return AttackResult(
        folder=folder,
        model_name=str(data["model_name"]),
        num_classes=classes,
        clean_data=str(data["clean_data"]),
        img_size=tuple(map(_whole, data["img_size"])),
        state=state,
        train=train,
        test=test,
        own_roles=_own_roles(folder, data.get(ROLES), train),
    )


def _own_roles(folder: Path, roles: Any, train: Part | None) -> np.ndarray | None:
    if roles is None or train is None:
        return None
    if np.shape(roles) != train.changed.shape or not np.isin(roles, list(Role)).all():
        expected = f"{train.changed.shape} of {', '.join(str(int(role)) for role in Role)}"
        raise BdbenchError(f"{folder / RESULT} has odd {ROLES} of shape {np.shape(roles)}: expected {expected}")
    return np.asarray(roles, np.int8)


def _part(folder: Path, name: str, state: Mapping[str, Any], classes: int) -> Part:
    where = f"{folder / RESULT}: {name}"
    try:
        container = state["bd_data_container"]
        entries = {_whole(k): v for k, v in container["data_dict"].items()}
        if len(entries) < len(container["data_dict"]):
            raise BdbenchError(f"{where}: its images have the same number twice: expected each once")
        index = np.array([_whole(i) for i in np.asarray(state["original_index_array"])], np.int64)
        indicator = np.asarray(state["poison_indicator"]) != 0
        # The indicator is over the whole clean set; what the index leaves out is not in this set.
        changed = np.intersect1d(np.flatnonzero(indicator), index)
        absent = [i for i in changed.tolist() if i not in entries]
        if absent:
            raise BdbenchError(f"{where}: example {absent[0]} is marked as poisoned but has no image: expected one")
        if index.size and not 0 <= index.min() <= index.max() < len(indicator):
            span = f"{index.min()}..{index.max()}"
            raise BdbenchError(f"{where}: indices are {span}: expected them in 0..{len(indicator) - 1}")
        if len(np.unique(index)) < len(index):
            raise BdbenchError(f"{where}: original_index_array has examples twice: expected each once")
        found = [_entry(folder, entries[i]) for i in changed.tolist()]
        for place, (_, label, original) in zip(changed.tolist(), found, strict=True):
            if not (0 <= label < classes and 0 <= original < classes):
                told = f"example {place} is labelled {label} and was {original}"
                raise BdbenchError(f"{where}: {told}: expected labels in 0..{classes - 1}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BdbenchError(f"{where} is not what BackdoorBench v2 writes: {reason}") from None
    images, labels, originals = zip(*found, strict=True) if found else ((), (), ())
    return Part(index, changed, np.array(labels, np.int64), np.array(originals, np.int64), len(indicator), images)


def _entry(folder: Path, value: Any) -> tuple[Any, int, int]:
    """An image (its file or itself), the label it was given and its own."""
    if not isinstance(value, dict):
        image, label, original = value
        return image, _whole(label), _whole(original)
    label, original = value["other_info"]
    # The record may have been moved, and written on Windows, whose paths have either separator; inside it an image is
    # always at SET/LABEL/INDEX.png.
    path = PureWindowsPath(value["path"])
    inside = path.parts[-3:]
    if len(inside) < 3 or ".." in inside or path.anchor in inside or any(":" in part for part in inside):
        raise ValueError(f"image path {value['path']!r} leads out of the record")
    return folder.joinpath(*inside), _whole(label), _whole(original)


def _whole(value: Any) -> int:
    """A number that is an integer, in whatever type. Raises ValueError for any other, which int would round."""
    whole = int(value)
    if whole != value:
        raise ValueError(f"{value!r} is no whole number")
    return whole


def _pixels(source: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    from PIL import Image

    mode = "L" if shape[2] == 1 else "RGB"
    try:
        if isinstance(source, Path):
            check_regular(source)
            # By what is in it, and PostScript is a program.
            with Image.open(source, formats=("PNG", "JPEG", "BMP")) as file:
                # Before it is decoded, which a picture of a billion pixels would not survive.
                if file.size != (shape[1], shape[0]):
                    raise _misfit(file, mode, shape, what)
                image = file.copy()
        else:
            image = source
        if (image.mode, mode) == ("RGB", "L") and (np.ptp(np.asarray(image), axis=2) == 0).all():
            image = image.getchannel(0)  # grey, in three equal channels
        if image.mode != mode or image.size != (shape[1], shape[0]):
            raise _misfit(image, mode, shape, what)
        return np.asarray(image).reshape(shape)
    except FileNotFoundError:
        raise BdbenchError(f"{what} is not at {source}: expected it inside the record's folder") from None
    except (OSError, ValueError, AttributeError, Image.DecompressionBombError) as error:
        raise BdbenchError(f"cannot read {what}: {error}") from None


def _misfit(image: Any, mode: str, shape: tuple[int, ...], what: str) -> BdbenchError:
    found = f"{image.mode} of {image.height} x {image.width}"
    return BdbenchError(f"{what} is {found}: expected {mode} of {shape[0]} x {shape[1]}, as the clean set")
