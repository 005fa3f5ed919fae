"""Whatever the user gives, as a listing: paths, the name of a data set, arrays, or a data set object of a library.

Libraries are known by how their objects behave, so that none of them needs to be installed.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.components import guard
from bdbench.components.interfaces import Dataset, Source
from bdbench.components.params import parse_spec
from bdbench.display.words import counted
from bdbench.errors import BdbenchError, one_line, unknown
from bdbench.images import decoding
from bdbench.images.data import Split, in_bytes
from bdbench.images.listing import Listing, listing_of
from bdbench.registry.plugins import installed
from bdbench.storage.files import check_regular

_IMAGES, _LABELS = ("image", "img"), ("label", "labels")
# Where a table has no images, it may say where they lie.
_PATHS = ("path", "file", "filename", "file_name")
# Labels beyond are no numbers of classes; numpy's own would come out negative.
_MOST = 2**62
# Items of a data set whose labels are compared with what it says that they are.
_LOOKED_AT = 16
_EXPECTED = (
    "a path, the name of a data set, images and labels, a Dataset of torchvision or Hugging Face, or a DataFrame of "
    "images or paths and labels"
)


def of_paths(given: Sequence[str | Path], data_root: str | Path | None = None, download: bool = False) -> Listing:
    """What lies at the paths, or the data set of that name and those parameters. Raises BdbenchError for neither."""
    paths = [Path(each) for each in given]
    there = [path.exists() for path in paths]
    if len(given) == 1 and not there[0] and (spec := _spec(str(given[0]))) is not None:
        return _of_dataset(spec, Source(Path(data_root) if data_root else None, download))
    if not given or not all(there):
        missing = str(paths[there.index(False)]) if given else "nothing"
        raise BdbenchError(f"{missing!r} is not there: expected {_expected()}")
    for registration in installed().registered("dataset"):
        dataset = registration.component
        with guard.call():
            if dataset.takes(paths):
                return dataset().browse(paths)
    if len(paths) == 1 and paths[0].is_dir() and (flat := sum(map(decoding.is_image, paths[0].iterdir()))):
        raise BdbenchError(
            f"{paths[0]} has {counted(flat, 'image')} and no folders of classes: expected a folder for each "
            "class with its images"
        )
    raise BdbenchError(f"{_described(paths)} cannot be scanned: expected {_expected()}")


def of_object(given: Any, labels: Any = None, classes: Sequence[str] | None = None) -> Listing:
    """Arrays (images, labels), a Dataset of Hugging Face or torchvision, or a DataFrame of pandas.

    Raises BdbenchError for anything else.
    """
    if isinstance(given, tuple) and len(given) == 2 and labels is None:
        given, labels = given
    if labels is not None:
        return _of_arrays(_array(given, "images"), _array(labels, "labels"), classes)
    if isinstance(given, np.ndarray):
        raise BdbenchError(f"images of shape {given.shape} and no labels: expected a label for each image")
    if isinstance(given, Mapping) and given and all(map(_has_rows, given.values())):
        given = _train_of(given)
    if _has_rows(given):
        return _of_rows(given, classes)
    if hasattr(given, "columns") and hasattr(given, "iloc"):
        return _of_frame(given, classes)
    if isinstance(given, Mapping):
        raise BdbenchError(f"cannot scan {type(given).__name__}: expected {_EXPECTED}")
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, str | bytes):
        return _of_pairs(given, classes)
    raise BdbenchError(f"cannot scan {type(given).__name__}: expected {_EXPECTED}")


def _array(given: Any, what: str) -> np.ndarray:
    """An array of what somebody calls images or labels. Raises BdbenchError for what is none."""
    given = _at_hand(given)
    try:
        found = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise BdbenchError(f"the {what} make no array ({error}): expected all of one shape") from None
    if isinstance(given, np.ma.MaskedArray) and given.mask.any():
        raise BdbenchError(f"the {what} are masked in {np.count_nonzero(given.mask)} places: expected none left out")
    if not found.ndim:
        raise BdbenchError(f"the {what} are {given!r}: expected one for each example")
    return found


def _at_hand(given: Any) -> Any:
    """A tensor without its gradient and where numpy reads it; anything else as it is."""
    return given.detach().cpu() if hasattr(given, "detach") else given


def _spec(text: str) -> Dataset | None:
    """The data set of that name, if there is one; its parameters may be wrong, which is said."""
    known = {r.name for r in installed().registered("dataset")}
    return installed().component("dataset", text) if parse_spec(text)[0] in known else None


def _of_dataset(dataset: Dataset, source: Source) -> Listing:
    with guard.call(dataset):
        read = dataset.read(source)
    return listing_of([read.train, read.test], read.classes)


def _expected() -> str:
    held = [r.component.holds for r in installed().registered("dataset") if r.component.holds]
    return f"{'; '.join(held)}; or the name of a data set (bdbench list datasets)"


def _described(paths: Sequence[Path]) -> str:
    if len(paths) > 1:
        return f"{paths[0]} and {counted(len(paths) - 1, 'other')} together"
    if not paths[0].is_dir():
        return str(paths[0])
    folders = sum(path.is_dir() for path in paths[0].iterdir())
    files = sum(not path.is_dir() for path in paths[0].iterdir())
    return f"{paths[0]}, with {counted(folders, 'folder')} and {counted(files, 'file')} in it,"


def _of_arrays(images: np.ndarray, labels: np.ndarray, classes: Sequence[str] | None) -> Listing:
    if labels.ndim != 1 or len(images) != len(labels):
        raise BdbenchError(
            f"{counted(len(images), 'image')} and labels of shape {labels.shape}: expected a label for each"
        )
    labels, named = _known(labels, classes)
    return listing_of([Split(images, labels)], named)


def _known(labels: np.ndarray, classes: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels that are numbers, or names themselves, as places among the names of their classes."""
    if labels.dtype.kind not in "iu":
        if labels.dtype.kind in "fcmMV":
            raise BdbenchError(f"labels are {labels.dtype}: expected integers, or names")
        told = [_name_of(label) for label in labels.tolist()]
        classes = sorted(set(told)) if classes is None else [_name_of(name) for name in _named(classes)]
        numbers = {name: number for number, name in enumerate(classes)}
        if strange := [name for name in told if name not in numbers]:
            raise unknown("class", strange[0], classes)
        labels = np.array([numbers[name] for name in told], np.int64)
    return _numbered(_integers(labels), classes)


def _name_of(label: Any) -> str:
    """The name of a class; the two Unicode forms of one are the same. Raises BdbenchError for what is none."""
    if isinstance(label, bytes):
        try:
            label = label.decode()
        except UnicodeDecodeError:
            raise BdbenchError(f"the label {label!r} is no text: expected names in UTF-8") from None
    if not isinstance(label, str | int | bool):
        raise BdbenchError(f"a label is {label!r}: expected numbers of classes, or names, and none missing")
    return unicodedata.normalize("NFC", str(label))


def _numbered(labels: np.ndarray, classes: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as places among the names of their classes. Without names those that occur are: they may be ids."""
    if classes is None:
        found, labels = np.unique(labels, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, found.tolist()))
    classes = _named(classes)
    most = int(labels.max()) + 1 if len(labels) else 0
    if len(classes) < most:
        raise BdbenchError(f"{len(classes)} classes are named and labels go up to {most - 1}: expected a name for each")
    return labels, tuple(map(str, classes))


def _named(classes: Any) -> Sequence[str]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise BdbenchError(f"classes={classes!r} is not allowed: expected a list of names")
    return classes


def _has_rows(given: Any) -> bool:
    return hasattr(given, "column_names") and hasattr(given, "features")


def _train_of(splits: Mapping[str, Any]) -> Any:
    """Of a DatasetDict of Hugging Face, what is trained on."""
    if "train" not in splits:
        names = ", ".join(map(repr, splits))
        raise BdbenchError(f"the data set has the splits {names} and no 'train': expected one of them by itself")
    return splits["train"]


def _of_frame(frame: Any, classes: Sequence[str] | None) -> Listing:
    """A DataFrame: images, encoded or in arrays, or paths of files, and labels, numbers or names."""
    columns = [str(column) for column in frame.columns]
    image, label = _column(columns, (*_IMAGES, *_PATHS)), _column(columns, _LABELS)
    for column in (image, label):
        if columns.count(column) > 1:
            raise BdbenchError(f"the data set has {columns.count(column)} columns called {column!r}: expected one")
    cells = frame[image].tolist()
    labels, named = _known(_array(_whole(frame[label].tolist()), "labels"), classes)
    listed = _opening(cells.__getitem__, labels, named, "rows")
    names = [
        str(cell) if isinstance(cell, str | Path) else name for cell, name in zip(cells, listed.names, strict=True)
    ]
    return replace(listed, names=names, parallel=True)


def _whole(labels: list[Any]) -> list[Any]:
    """Labels none of which is missing: an array would make names of what stands for none. Raises BdbenchError."""
    for place, label in enumerate(labels):
        if label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and label != label):
            raise BdbenchError(f"row {place} has no label ({label!r}): expected one for each image")
    return labels


def _of_rows(rows: Any, classes: Sequence[str] | None) -> Listing:
    """A Dataset of Hugging Face: rows are dicts, and ``features`` name the classes."""
    image, label = (_column(rows.column_names, usual) for usual in (_IMAGES, _LABELS))
    labels = _integers(rows[label])
    named = classes or getattr(rows.features[label], "names", None)
    return _opening(lambda place: rows[place][image], *_numbered(labels, named), "rows")


def _column(names: Sequence[str], usual: Sequence[str]) -> str:
    found = [name for name in usual if name in names]
    if not found:
        raise BdbenchError(f"the data set has the columns {', '.join(names)}: expected {' or '.join(usual)}")
    return found[0]


def _of_pairs(pairs: Any, classes: Sequence[str] | None) -> Listing:
    """A Dataset of torchvision or the like: items are pairs of an image and a label.

    Those of image folders say what the files are; then names are paths below their root.
    """
    labels, named = _numbered(_labels_of(pairs), classes or getattr(pairs, "classes", None))
    listed = _opening(lambda place: pairs[place][0], labels, named, "items")
    root, samples = getattr(pairs, "root", None), getattr(pairs, "samples", None)
    if root is None or not samples or not all(Path(str(path)).is_relative_to(root) for path, _ in samples):
        return listed
    names = [str(Path(path).relative_to(root)) for path, _ in samples]
    # The files themselves: what a transform makes of them may be cropped, or another every time.
    return replace(
        listed, names=names, root=Path(root), open=lambda place: decoding.decoded(Path(samples[place][0]), names[place])
    )


def _labels_of(pairs: Any) -> np.ndarray:
    """The labels that items have, int64 (n,): by ``targets``, where a data set has them, without opening its images.

    Raises BdbenchError if they are not those of the items.
    """
    targets = getattr(pairs, "targets", None)
    try:
        if targets is None:
            return _integers([pairs[place][1] for place in range(len(pairs))])
        if (changed := getattr(pairs, "target_transform", None)) is not None:
            targets = [changed(target) for target in targets]
    except BdbenchError:
        raise
    except Exception as error:  # the user's data set may raise anything
        raise BdbenchError(
            f"cannot scan {type(pairs).__name__}: its items give no labels ({one_line(error)}): expected {_EXPECTED}"
        ) from None
    labels = _integers(targets)
    if len(labels) != len(pairs):
        raise BdbenchError(f"there are {len(pairs)} items and {len(labels)} targets: expected one for each")
    for place in np.linspace(0, len(labels) - 1, min(_LOOKED_AT, len(labels))).astype(int).tolist():
        try:
            told = int(pairs[place][1])
        except Exception:
            continue
        if told != labels[place]:
            raise BdbenchError(f"item {place} has the label {told}, and by targets {labels[place]}: expected the same")
    return labels


def _integers(labels: Any) -> np.ndarray:
    """Labels as int64 (n,). Raises BdbenchError for anything but numbers of classes."""
    found = _array(labels, "labels")
    numbers = found.ndim == 1 and found.dtype.kind in "iu"
    if not numbers or (len(found) and not 0 <= found.min() <= found.max() <= _MOST):
        shown = ", ".join(map(str, found.ravel()[:3].tolist()))
        raise BdbenchError(f"labels are {found.dtype} of shape {found.shape} ({shown}, ...): expected integers >= 0")
    return found.astype(np.int64)


def _opening(item: Any, labels: np.ndarray, classes: tuple[str, ...], title: str) -> Listing:
    def opened(place: int) -> np.ndarray:
        try:
            return _pixels(item(place), f"{title}/{place}")
        except BdbenchError:
            raise
        except Exception as error:  # the user's data set may raise anything
            raise BdbenchError(f"cannot read the image {title}/{place}: {error}") from None

    return Listing([f"{title}/{place}" for place in range(len(labels))], labels, classes, opened)


def _pixels(image: Any, where: str) -> np.ndarray:
    """An image of Pillow, an array, or a tensor (C, H, W), as uint8 (H, W, 1 or 3); an encoded one in bytes, in a file,
    or in a struct of both, as Hugging Face keeps them. Raises ValueError for others, BdbenchError for one that does not
    decode, which says ``where`` it is.
    """
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if image is None:
            raise ValueError("a struct without bytes and without a path: expected either")
    if isinstance(image, bytes):
        return decoding.decoded(io.BytesIO(image), where)
    if isinstance(image, str | Path):
        check_regular(Path(image))
        return decoding.decoded(Path(image), where)
    if hasattr(image, "convert"):
        return decoding.seen(image)
    pixels = np.asarray(_at_hand(image))
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = in_bytes("its pixels", pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}: expected uint8, or 0..1, of (H, W, 1 or 3)")
    return pixels
