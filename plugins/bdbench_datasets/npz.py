"""One npz file with the user's own arrays."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split, param

_NEEDED = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, kw_only=True)
class Npz(Dataset):
    """An npz file with x_train, y_train, x_test, y_test and, if you like, class names in ``classes``.

    Images: uint8, or floats in 0..1, of shape (n, H, W) or (n, H, W, 1 or 3); labels: integers.
    """

    name = "npz"
    path: str = param("", help="the file; relative to --data-root if that is given")

    def read(self, source: Source) -> ImageData:
        """The arrays of the file. Raises BdbenchError if it is missing, corrupt or incomplete."""
        if not self.path:
            raise BdbenchError("dataset 'npz' needs a file: expected npz:path=FILE.npz")
        path = (source.root or Path()) / self.path
        try:
            with np.load(path, allow_pickle=False) as file:
                missing = [k for k in _NEEDED if k not in file]
                if missing:
                    raise BdbenchError(f"{path} has no array {missing[0]!r}: expected {', '.join(_NEEDED)}")
                x_train, y_train, x_test, y_test = (file[k] for k in _NEEDED)
                names = file["classes"] if "classes" in file else None
        except FileNotFoundError:
            raise BdbenchError(f"no file at {path}: expected an npz with {', '.join(_NEEDED)}") from None
        except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise BdbenchError(f"cannot read {path} as npz: {error or type(error).__name__}") from None
        labels = [np.atleast_1d(y) for y in (y_train, y_test)]
        if not all(np.issubdtype(y.dtype, np.integer) and y.size for y in labels):
            raise BdbenchError(f"{path}: labels are {y_train.dtype} and {y_test.dtype}: expected integers")
        count = int(max(y.max() for y in labels)) + 1
        classes = tuple(str(c) for c in (np.arange(count) if names is None else np.atleast_1d(names)))
        return ImageData(Split(x_train, y_train), Split(x_test, y_test), classes)
