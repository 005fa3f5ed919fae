"""One npz file with the user's own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Listing, Source, Split, listing_of, param, read_arrays
from bdbench_datasets.labels import column, names_of, numbered

_TRAIN, _TEST = ("x_train", "y_train"), ("x_test", "y_test")
_NEEDED = (*_TRAIN, *_TEST)


@dataclass(frozen=True, kw_only=True)
class Npz(Dataset):
    """An npz file with x_train, y_train, x_test, y_test and, if you like, class names in ``classes``.

    Images: uint8, or floats in 0..1, of shape (n, H, W) or (n, H, W, 1 or 3); labels: integers (n,).
    """

    name = "npz"
    holds = "one .npz file with x_train and y_train"
    path: str = param("", help="the file; relative to --data-root if that is given")

    def read(self, source: Source) -> ImageData:
        """The arrays of the file. Raises BdbenchError if it is missing, corrupt or incomplete."""
        if not self.path:
            raise BdbenchError("dataset 'npz' needs a file: expected npz:path=FILE.npz")
        path = (source.root or Path()) / self.path
        file = _read(path, _NEEDED)
        labels = [column(file[name], f"{path}: labels") for name in ("y_train", "y_test")]
        classes = _classes(file, labels, path)
        return ImageData(Split(file["x_train"], labels[0]), Split(file["x_test"], labels[1]), classes)

    @classmethod
    def takes(cls, paths: Sequence[Path]) -> bool:
        """One file whose name ends in .npz."""
        return len(paths) == 1 and paths[0].suffix.lower() == ".npz"

    def browse(self, paths: Sequence[Path]) -> Listing:
        """x_train and y_train, and x_test and y_test if they are there."""
        path = paths[0]
        file = _read(path, _TRAIN)
        parts = [_TRAIN, *([_TEST] if all(name in file for name in _TEST) else [])]
        labels = [column(file[name], f"{path}: labels") for _, name in parts]
        classes = _classes(file, labels, path)
        splits = [Split(file[images], own) for (images, _), own in zip(parts, labels, strict=True)]
        return listing_of(splits, classes)


def _read(path: Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        file = read_arrays(path, (*_NEEDED, "classes"))
    except FileNotFoundError:
        raise BdbenchError(f"no file at {path}: expected an npz with {', '.join(needed)}") from None
    missing = [name for name in needed if name not in file]
    if missing:
        raise BdbenchError(f"{path} has no array {missing[0]!r}: expected {', '.join(needed)}")
    return file


def _classes(file: Mapping[str, np.ndarray], labels: Sequence[np.ndarray], path: Path) -> tuple[str, ...]:
    names = file.get("classes")
    return numbered(labels, str(path)) if names is None else names_of(names, f"{path}: classes")
