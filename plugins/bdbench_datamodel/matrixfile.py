"""A train-on-train matrix from a file that somebody else computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from bdbench import BdbenchError

KINDS = (".npy", ".npz", ".pt")
Rows = Literal["auto", "targets", "sources"]


def read_matrix(path: Path, examples: int, rows: Rows = "auto") -> np.ndarray:
    """float32 (n, n), a row for each target, from a .npy, .npz or .pt file.

    rows: what the file's rows are. auto: targets, unless the file is a dictionary with ``weight``, as in the release
    of Ilyas et al. 2022, whose matrices are train examples by targets. An .npz or a dictionary must hold ``weight``
    or one array alone. It is in units of its largest entry: only ratios count, and squares of very large or small ones
    would not fit float32. Raises BdbenchError if the file is not there, not readable or not (examples, examples).
    """
    if path.suffix not in KINDS:
        raise BdbenchError(f"matrix {str(path)!r} is not readable: expected a file that ends in {', '.join(KINDS)}")
    if not path.is_file():
        raise BdbenchError(f"matrix {str(path)!r} is not there: expected a file")
    try:
        found, named = _chosen(_loaded(path), path)
        matrix = np.asarray(found.detach().float() if hasattr(found, "detach") else found, np.float32)
    except Exception as error:  # whatever trips over bytes that are not what their name says
        reason = " ".join(str(error).split())[:200]
        raise BdbenchError(f"matrix {str(path)!r} is not readable: {reason}") from None
    if matrix.shape != (examples, examples):
        raise BdbenchError(f"matrix {str(path)!r} is {matrix.shape}: expected ({examples}, {examples})")
    if not np.isfinite(matrix).all():
        raise BdbenchError(f"matrix {str(path)!r} holds NaN or infinite entries: expected finite ones")
    largest = max(float(matrix.max()), -float(matrix.min()))
    if largest > 0:
        matrix = matrix / np.float32(largest)
    transposed = rows == "sources" or (rows == "auto" and named)
    return np.ascontiguousarray(matrix.T) if transposed else matrix


def _loaded(path: Path) -> Any:
    if path.suffix == ".pt":
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    loaded = np.load(path, allow_pickle=False)
    return dict(loaded) if path.suffix == ".npz" else loaded


def _chosen(loaded: Any, path: Path) -> tuple[Any, bool]:
    """The array, and whether it was called ``weight``."""
    if not isinstance(loaded, dict):
        return loaded, False
    if "weight" in loaded:
        return loaded["weight"], True
    if len(loaded) != 1:
        names = ", ".join(map(str, loaded))
        raise ValueError(f"it holds {names}: expected one array, or one called weight")
    return next(iter(loaded.values())), False
