"""What Python callers of ``inspect`` hand in, checked: whatever it is, it is of use or named in one line."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.experiment import checked_seed

# Of classes: a list of the names of more would itself be large.
_MOST_CLASSES = 1_000_000
_DIGITS = 18
_SHOWN = 60


def path(value: Any, name: str) -> Path:
    """A path that is given as a str, as bytes or as a Path. Raises BdbenchError for anything else."""
    try:
        return Path(os.fsdecode(value))
    except TypeError:
        raise _refused(name, value, "a path, as a str or a pathlib.Path") from None


def several(value: Any, name: str) -> list[Any]:
    """A list of components; one alone is a list of it. Raises BdbenchError for what is none."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) or hasattr(value, "kind"):
        return [value]
    raise _refused(name, value, "a list of names with parameters, or of components")


def checked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``subject.Asked`` in the types that they have there. Raises BdbenchError for what is none."""
    return {
        name: _CHECKS[name](value, name) if value is not None and name in _CHECKS else value
        for name, value in asked.items()
    }


def _whole(value: Any, name: str) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise _refused(name, value, "an integer") from None


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        return tuple(map(float, value))
    except (TypeError, ValueError, OverflowError):
        raise _refused(name, value, "numbers, one a channel, or one for all") from None


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _refused(name, value, "a str")
    return value


def _classes(value: Any, name: str) -> Any:
    if isinstance(value, str) and value.isdecimal() and not os.path.exists(value):
        # Longer ones are not read: Python refuses some thousands of digits.
        value = int(value[:_DIGITS])
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | os.PathLike):
        return path(value, name)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if isinstance(value, Sequence):
        return value
    count = _whole(value, name) if hasattr(value, "__index__") else -1
    if not 0 <= count <= _MOST_CLASSES:
        raise _refused(name, value, f"names in a list, a file of them, or their number, at most {_MOST_CLASSES}")
    return count


def _refused(name: str, value: Any, expected: str) -> BdbenchError:
    shown = repr(value)
    shown = f"{shown[:_SHOWN]}..." if len(shown) > _SHOWN else shown
    return BdbenchError(f"{name}={shown} is not allowed: expected {expected}")


def _seed(value: Any, name: str) -> int:
    return checked_seed(value)


_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "size": _whole,
    "channels": _whole,
    "mean": _numbers,
    "std": _numbers,
    "normalise": _text,
    "device": _text,
    "classes": _classes,
    "seed": _seed,
}
