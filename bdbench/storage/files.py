"""Files that anybody may have written, read with one line of what is wrong. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bdbench import foreign
from bdbench.errors import BdbenchError
from bdbench.host.memory import check_memory
from bdbench.host.timeout import OutOfTime

# Deeper than any file of ours; recursive code gives up at some hundred.
_DEEPEST = 50
# As many entries as a zip file can say at its end; where it says so, it has more, or says how many elsewhere.
_MORE = 0xFFFF
# Of a name that cannot be one.
_SHOWN = 200


@functools.cache
def notice(text: str) -> None:
    """Tell the user what is no error, once: a line of the logger ``bdbench``, by default on standard error."""
    logging.getLogger("bdbench").warning("%s", foreign.line(text))


def check_regular(path: Path) -> None:
    """Raise FileNotFoundError, or BdbenchError for what is there and no file: a pipe may wait for ever to be read."""
    try:
        found = path.stat()
        regular = path.is_file()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a null character in the name, or a longer one than there are
        raise BdbenchError(f"cannot read {str(path)[:_SHOWN]!r}: {_why(error)}") from None
    if not regular:
        what = "a folder" if path.is_dir() else f"no regular file (mode {found.st_mode:o})"
        raise BdbenchError(f"cannot read {path}: it is {what}, expected a file")


def check_outside(place: Path, folder: Path, what: str) -> None:
    """Raise BdbenchError if ``place`` lies in ``folder``, or is it; what: that one in words, ``that is scanned``.

    By what they are and not by how they are written: a way round may lead back in.
    """
    if place.resolve().is_relative_to(folder.resolve()):
        raise BdbenchError(f"{place} lies in the folder {what}, {folder}: expected a place outside")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises FileNotFoundError, or BdbenchError for what does not read.

    Numbers must be finite, keys there once, and values no deeper than 50 in each other.
    """
    check_regular(path)
    try:
        data = json.loads(
            path.read_bytes(),
            object_pairs_hook=_once,
            parse_constant=_no_number,
            parse_int=_int,
            parse_float=_float,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise BdbenchError(f"cannot read {path}: {_why(error)}") from None
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise BdbenchError(f"cannot read {path}: its values lie in each other, expected {_DEEPEST} deep at most")
        level = [
            v for one in level if isinstance(one, dict | list) for v in (one.values() if isinstance(one, dict) else one)
        ]
    return data


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file; names: which of them, where they are there (None: all).

    Raises FileNotFoundError, or BdbenchError for one that does not read or, unpacked, does not fit into memory.
    """
    check_regular(path)
    with reading(path, "npz"), path.open("rb") as file:
        return unpacked(file, names, str(path))


def unpacked(file: BinaryIO, names: Collection[str] | None = None, where: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of an open npz file, as ``read_arrays`` gives them. Damaged ones raise anything.

    where: what the file is, where anybody may have written it, so that its arrays may be far larger than it is.
    """
    with np.load(file, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is one array, not several")
        assert arrays.zip is not None
        listed, told = len(arrays.files), _told_entries(file, arrays.zip.start_dir)
        if told not in (listed, _MORE):
            raise ValueError(f"its directory lists {listed} arrays, and says that there are {told}")
        wanted = [name for name in arrays.files if names is None or name in names]
        if where is not None:
            sizes = {one.filename.removesuffix(".npy"): one.file_size for one in arrays.zip.infolist()}
            check_memory(sum(sizes[name] for name in wanted), f"what {where} holds", "smaller arrays")
        found = {name: arrays[name] for name in wanted}
        for name, array in found.items():
            # A member without the first bytes of an array comes as bytes.
            if not isinstance(array, np.ndarray):
                raise ValueError(f"its member {name!r} is no array")
        return found


def _told_entries(file: BinaryIO, directory: int) -> int:
    """How many entries a zip file says that it has, which zipfile does not compare with those that it finds.

    One bit of the length of an entry's comment, or of what is extra in it, hides the entries after it. directory: where
    they begin.
    """
    file.seek(directory)
    end = file.read()
    at = end.rindex(b"PK\x05\x06") + 10
    return int.from_bytes(end[at : at + 2], "little")


@contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Turn what a reader raises inside into the one-line error for a file that does not read as ``what``.

    Readers of other projects raise anything on damaged files. FileNotFoundError and BdbenchError pass, and what ends
    the reading because it takes too long.
    """
    try:
        yield
    except (FileNotFoundError, BdbenchError, OutOfTime):
        raise
    except Exception as error:
        raise BdbenchError(f"cannot read {path} as {what}: {_why(error)}") from None


def _why(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(told.split())[:300] or type(error).__name__


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _int(text: str) -> int:
    value = int(text)
    if len(text) > 300:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is too large")
    return value


def digest_of(path: Path) -> str:
    """A hash of what one file holds, however large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
