"""Stage results, found by the hash of what they were made from; written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bdbench.errors import BdbenchError, writable
from bdbench.host.timeout import OutOfTime
from bdbench.storage import claims, folders
from bdbench.storage.files import check_regular, notice, read_json, unpacked

# Where stage results are kept, in the folder of runs.
STAGES = ".stages"
_DAY = 24 * 3600


def key_of(config: Mapping[str, Any]) -> str:
    """The content address of a JSON-able configuration: 32 hexadecimal digits."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def written_whole(folder: Path, keep_others: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` at the end, replacing it, or vanishes on an error.

    keep_others: what lies in the folder under other names than the new files stays there; and where the folder itself
    can take no other's place, its files do, one after another. The new files are flushed to disk before the rename.
    Raises BdbenchError if the place cannot be written.
    """
    with writable(folder.parent):
        place = Path(os.path.realpath(folder)) if keep_others else folder
        kept = keep_others and place.is_dir()
        filled = kept and not folders.replaceable(place)
        home = place if filled else place.parent
        home.mkdir(parents=True, exist_ok=True)
        mode = place.stat().st_mode & 0o777 if kept else 0o755
    with writable(home):
        aside = Path(tempfile.mkdtemp(prefix=folders.UNFINISHED, dir=home))
    try:
        yield aside
        aside.chmod(mode)
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        if filled:
            folders.fill(place, aside)
        else:
            folders.replace(place, aside, keep_others)
        _sync(home)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise BdbenchError(f"cannot write to {folder}: {error.strerror}: expected a writable folder") from None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write one file whole or not at all; where a link leads, and into what is there and no file: a pipe, a device.

    Raises BdbenchError if the place cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with writable(path.parent):
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        there = place.exists()
    if place.is_dir():
        raise BdbenchError(f"cannot write {path}: it is a folder, expected a file")
    with writable(path.parent):
        if there and not place.is_file():
            place.write_bytes(data)
            return
        descriptor, aside = tempfile.mkstemp(dir=place.parent, prefix=folders.UNFINISHED)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.chmod(aside, 0o644)
            _sync(Path(aside))
            os.replace(aside, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise


def check_writable(folder: Path) -> None:
    """Raise BdbenchError, before work, for a folder that cannot be written, or not be made; nothing is made."""
    with writable(folder):
        place = Path(os.path.realpath(folder))
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in this folder.

    What is younger than a day stays: another process may be at work on it.
    """
    for path in folder.glob(f"{folders.UNFINISHED}*"):
        try:
            if time.time() - path.stat().st_mtime > _DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Stage:
    """A finished stage: its arrays, the seconds it took when it was computed, and whether it was reused."""

    arrays: dict[str, np.ndarray]
    seconds: float
    reused: bool


class Store:
    """A folder of stage results. ``fresh`` ignores what was there before this Store was opened."""

    def __init__(self, root: Path, fresh: bool = False, finished: bool = False) -> None:
        """finished: of work that is done, so that nothing may have to be written, and the place need not allow it.

        Raises BdbenchError for another place that cannot be written.
        """
        self.root = root
        if not finished:
            check_writable(root)
        self._fresh = fresh
        self._mine: set[str] = set()
        # It is made with the first stage.
        if root.is_dir():
            for folder in (root, *root.iterdir()):
                sweep(folder)

    def stage(self, config: Mapping[str, Any], make: Callable[[], tuple[Mapping[str, np.ndarray], float]]) -> Stage:
        """The stage of that configuration, from disk if it is there, else from ``make`` (arrays, seconds).

        A folder that is not as it was written (a bit that fell over, a stray hand) is told of and computed again.
        """
        key = key_of(config)
        folder = self.root / key[:2] / key
        found = self._found(key, folder)
        if found is not None:
            return found
        # Who makes it is waited for, rather than that it is made twice.
        with claims.locked(folder.with_suffix(".lock")):
            return self._found(key, folder) or self._made(key, folder, config, make)

    def _found(self, key: str, folder: Path) -> Stage | None:
        if not self._fresh or key in self._mine:
            try:
                return self._read(folder, key)
            except FileNotFoundError:
                pass
            except OutOfTime:
                raise
            except Exception as error:  # bytes that are not what was written may trip whatever reads them
                notice(f"the stage result {folder} is damaged and is computed again: {error}")
        return None

    def _made(
        self, key: str, folder: Path, config: Mapping[str, Any], make: Callable[[], tuple[Mapping[str, Any], float]]
    ) -> Stage:
        arrays, seconds = make()
        with written_whole(folder) as aside:
            np.savez(aside / "arrays.npz", **dict(arrays))  # type: ignore[arg-type]
            with (aside / "arrays.npz").open("rb") as file:
                meta = {"key": key, "config": config, "seconds": seconds, "arrays": _digest(file)}
            meta = json.loads(json.dumps(meta))  # as it will be read: its digest is of that
            text = json.dumps({**meta, "digest": key_of(meta)}, indent=1, sort_keys=True)
            (aside / "meta.json").write_text(text)
        self._mine.add(key)
        claims.advanced()
        return Stage(dict(arrays), seconds, reused=False)

    def made_elsewhere(self, config: Mapping[str, Any]) -> None:
        """Say that another process made the stage of that configuration for this one: it is not stale."""
        self._mine.add(key_of(config))

    @staticmethod
    def _read(folder: Path, key: str) -> Stage:
        """What is there, if it is what was written for ``key``. Raises anything else."""
        meta = read_json(folder / "meta.json")
        if not isinstance(meta, dict) or meta.pop("digest", None) != key_of(meta):
            raise ValueError("meta.json is not as it was written")
        if meta["key"] != key:
            raise ValueError(f"it is of stage {meta['key']}")
        check_regular(folder / "arrays.npz")
        # One file, whatever takes its place between the two.
        with (folder / "arrays.npz").open("rb") as file:
            if _digest(file) != meta["arrays"]:
                raise ValueError("arrays.npz is not as it was written")
            file.seek(0)
            return Stage(unpacked(file), float(meta["seconds"]), reused=True)


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
