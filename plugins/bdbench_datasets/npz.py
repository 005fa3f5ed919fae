"""One npz file with the user's own arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bdbench import BdbenchError, Dataset, ImageData, Source, Split, param, read_arrays
from bdbench_datasets.labels import column, names_of, numbered

_NEEDED = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, kw_only=True)
class Npz(Dataset):
    """An npz file with x_train, y_train, x_test, y_test and, if you like, class names in ``classes``.

    Images: uint8, or floats in 0..1, of shape (n, H, W) or (n, H, W, 1 or 3); labels: integers (n,).
    """

    name = "npz"
    path: str = param("", help="the file; relative to --data-root if that is given")

    def read(self, source: Source) -> ImageData:
        """The arrays of the file. Raises BdbenchError if it is missing, corrupt or incomplete."""
        if not self.path:
            raise BdbenchError("dataset 'npz' needs a file: expected npz:path=FILE.npz")
        path = (source.root or Path()) / self.path
        try:
            file = read_arrays(path)
        except FileNotFoundError:
            raise BdbenchError(f"no file at {path}: expected an npz with {', '.join(_NEEDED)}") from None
        missing = [k for k in _NEEDED if k not in file]
        if missing:
            raise BdbenchError(f"{path} has no array {missing[0]!r}: expected {', '.join(_NEEDED)}")
        x_train, y_train, x_test, y_test = (file[k] for k in _NEEDED)
        labels = [column(y, f"{path}: labels") for y in (y_train, y_test)]
        names = file.get("classes")
        classes = numbered(labels, str(path)) if names is None else names_of(names, f"{path}: classes")
        return ImageData(Split(x_train, labels[0]), Split(x_test, labels[1]), classes)
