"""Labels and the names of classes, from the arrays that people keep them in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bdbench import BdbenchError


def column(labels: np.ndarray, where: str) -> np.ndarray:
    """Integers (n,), of (n,) or of a column (n, 1). Raises BdbenchError, which says ``where``, for others."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    # Not by issubdtype: spans of time are integers to it.
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        hint = "; one-hot labels are to be given by argmax(1)" if labels.ndim == 2 else ""
        raise BdbenchError(f"{where} are {labels.dtype} of shape {labels.shape}: expected integers (n,){hint}")
    return labels


def numbered(labels: Sequence[np.ndarray], where: str) -> tuple[str, ...]:
    """The names of classes that have none: the numbers 0..K-1.

    Raises BdbenchError, which says ``where``, unless the labels are those numbers: ids would make a class of each
    number below them.
    """
    found = np.unique(np.concatenate([np.unique(part) for part in labels]))
    low, high = int(found[0]), int(found[-1])
    if low < 0 or high >= len(found):
        raise BdbenchError(
            f"{where}: labels are {low}..{high} with {len(found)} different values: expected 0..{len(found) - 1}"
        )
    return tuple(str(label) for label in range(high + 1))


def names_of(names: np.ndarray, where: str) -> tuple[str, ...]:
    """The names of classes in an array (K,) of texts, bytes in UTF-8, or numbers. Raises BdbenchError for others."""
    if names.ndim != 1:
        raise BdbenchError(f"{where} have shape {names.shape}: expected a name for each label")
    try:
        found = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist())
    except UnicodeDecodeError as error:
        raise BdbenchError(f"{where} are no UTF-8: {error}") from None
    return found
