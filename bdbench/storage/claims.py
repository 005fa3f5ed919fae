"""Who does what: locks on files that whoever dies gives up, and how often somebody died at a piece of work.

They are flock's: the system gives them up with the process that holds them, whatever becomes of it. On NFS they hold
between machines as well (Linux gives them to the server); on a file system without any, everybody works for himself,
and does work twice whose results are equal.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from bdbench.errors import BdbenchError, writable
from bdbench.host import stopping

# As often as this processes may crash, or run out of memory, at a piece of work and get no further; then it is that
# work's fault. Who was killed may have been killed by anybody: that takes more.
TRIES, KILLS = 3, 20
_FATAL = "Fatal Python error"


@dataclass
class Claim:
    """Work that is this process's alone.

    died: how often processes died at it in a row that got no further with it; crashed: how many of them by themselves;
    trace: where the last of these was.
    """

    path: Path
    died: int = 0
    crashed: int = 0
    trace: str = ""

    @property
    def hopeless(self) -> bool:
        """Whether it is not to be tried again."""
        return self.crashed >= TRIES or self.died >= KILLS


@dataclass
class Lock:
    """A lock that this process has. kept: its file is not to be removed with it; code: of the attempt that it is of;
    thread: that took it.
    """

    file: BinaryIO
    kept: bool = False
    code: str | None = None
    thread: int = field(default_factory=threading.get_ident)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[Lock | None]:
    """A lock, whose file is made for it and removed at the end; None: another holds it, and we do not wait.

    Raises BdbenchError if the place cannot be written, or if what is waited for is who waits.
    """
    own = _HELD.get(path)
    if wait and own is not None and own.thread == threading.get_ident():
        raise BdbenchError(f"{path.stem[:8]} is made out of itself: expected what it is made of to be something else")
    file = _acquired(path, wait)
    if file is None:
        yield None
        return
    lock = Lock(file)
    _HELD[path] = lock
    try:
        yield lock
    finally:
        # While it is held: who waits for it sees that it is no longer the file of that name.
        with contextlib.suppress(OSError):
            if not lock.kept:
                path.unlink()
        _HELD.pop(path, None)
        file.close()


@contextmanager
def attempt(path: Path, code: str, wait: bool = True) -> Iterator[Claim | None]:
    """A claim on a piece of work, known by its file; None: another has it, and we do not wait.

    The file outlives a process that dies at the work, and says how often that happened with this ``code`` and no step
    done (``advanced``). It stays where a claim is ``hopeless``: whoever removes it lets the work be tried again.
    """
    with locked(path, wait) as lock:
        if lock is None:
            yield None
            return
        claim = _claim(path, lock.file, code)
        lock.kept = claim.hopeless
        if claim.hopeless:
            yield claim
            return
        lock.code = code
        _note(lock.file, code, replace(claim, died=claim.died + 1))
        with _crashes_told(lock.file):
            yield claim


def advanced() -> None:
    """Say that a step of the work is done and will be found: whoever died at it before did not die for nothing."""
    for path, lock in _HELD.items():
        if lock.code is not None:
            _note(lock.file, lock.code, Claim(path, died=1))


@contextmanager
def _crashes_told(file: BinaryIO) -> Iterator[None]:
    """A crash in here writes to the file where it was."""
    before = faulthandler.is_enabled()
    faulthandler.enable(file=file, all_threads=False)
    try:
        yield
    finally:
        faulthandler.disable()
        if before:
            with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
                faulthandler.enable(file=sys.__stderr__)  # type: ignore[arg-type]


def _acquired(path: Path, wait: bool) -> BinaryIO | None:
    while True:
        with writable(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Unbuffered: what does not fit onto a full disk would be written once more when it is closed.
                file = path.open("a+b", buffering=0)
            except FileNotFoundError:  # somebody tidied up in between
                continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                return None
            # No locks here: as if nobody else were there.
            return file
        except BaseException:
            file.close()
            raise
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _claim(path: Path, file: BinaryIO, code: str) -> Claim:
    """What the file says of those that had the work before: a line of JSON, and what a crash wrote below it."""
    file.seek(0)
    noted, _, below = file.read().decode(errors="replace").partition("\n")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        held = json.loads(noted)
        if held["code"] == code:
            crash = _FATAL in below
            starved = not crash and _starved() > held["starved"]
            trace = below if crash else str(held["trace"])
            return Claim(path, int(held["died"]), int(held["crashed"]) + (crash or starved), trace)
    return Claim(path)


def _note(file: BinaryIO, code: str, claim: Claim) -> None:
    held = {"code": code, "died": claim.died, "crashed": claim.crashed, "starved": _starved(), "trace": claim.trace}
    with contextlib.suppress(OSError):  # a full disk: then it is not counted
        file.truncate(0)
        file.write(json.dumps(held).encode() + b"\n")
        file.flush()


def _starved() -> int:
    """How many processes the system has ended for want of memory since it was started; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _forget() -> None:
    """Take this process's claims away before it ends in the middle of them because it was asked to."""
    for path, lock in list(_HELD.items()):
        with contextlib.suppress(OSError):
            if not lock.kept:
                path.unlink()


def _leave_to_parent() -> None:
    # A forked child would hold the locks as long as it lives, also when its parent is dead.
    for lock in _HELD.values():
        os.close(lock.file.fileno())
    _HELD.clear()


_HELD: dict[Path, Lock] = {}
os.register_at_fork(after_in_child=_leave_to_parent)
stopping.BEFORE_END.append(_forget)
