"""A folder put in the place of another one, which is never absent meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# What such names begin with is swept once it is old.
UNFINISHED = ".unfinished-"
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS


def replace(folder: Path, new: Path, keep_others: bool = False) -> None:
    """Rename ``new`` to ``folder``, whatever is there or comes there meanwhile from another process.

    The two change places in one step where the system can; elsewhere (NFS) the old one steps aside first, so that at
    every moment one of the two is whole on disk. keep_others: what the old one holds under other names stays.
    """
    try:
        new.rename(folder)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if keep_others:
        _take_over(folder, new)
    if not exchange(new, folder):
        _replace_in_turn(folder, new, keep_others)
        return
    if keep_others:
        # What came while the two changed places.
        _take_over(new, folder)
    shutil.rmtree(new, ignore_errors=True)


def replaceable(folder: Path) -> bool:
    """Whether another folder may take the place of this one: not where something is mounted, or whose parent is not
    ours, and not where somebody is: he would go on in the old one.
    """
    here = None
    with contextlib.suppress(FileNotFoundError):  # the current folder may be gone
        here = Path.cwd()
    inside = here is not None and here.is_relative_to(folder)
    return os.access(folder.parent, os.W_OK | os.X_OK) and not os.path.ismount(folder) and not inside


def fill(folder: Path, new: Path) -> None:
    """Let the files of ``new``, which lies in ``folder``, take the places of their namesakes there; ``new`` goes."""
    for path in sorted(new.iterdir()):
        os.replace(path, folder / path.name)
    new.rmdir()


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places, in one step; False where this system or this file system cannot."""
    call = _exchange()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    # ENOENT: another process, which cannot either, has one of them aside just now.
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EXDEV, errno.ENOENT):
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _exchange() -> Callable[[bytes, bytes], int] | None:
    library = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):
        if sys.platform == "linux":
            rename = library.renameat2
            return lambda one, other: rename(_HERE, one, _HERE, other, _EXCHANGE)
        swap = library.renamex_np
        return lambda one, other: swap(one, other, _EXCHANGE)
    return None


def _replace_in_turn(folder: Path, new: Path, keep_others: bool) -> None:
    for again in itertools.count():
        old = Path(f"{new}-old{again}")
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder)  # what is old is swept
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(OSError):
                    old.rename(folder)
                raise
        else:
            if keep_others:
                _take_over(old, folder)
            shutil.rmtree(old, ignore_errors=True)
            return
        shutil.rmtree(old, ignore_errors=True)


def _take_over(old: Path, new: Path) -> None:
    """Give ``new`` too what ``old`` alone holds; the same files, where the file system has links."""
    for path in sorted(old.iterdir()) if old.is_dir() else ():
        target = new / path.name
        if os.path.lexists(target) or path.name.startswith(UNFINISHED):
            continue
        with contextlib.suppress(FileNotFoundError):  # it was removed in between
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, target, symlinks=True, copy_function=_linked)
            else:
                _linked(str(path), str(target))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
