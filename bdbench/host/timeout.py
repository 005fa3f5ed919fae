"""A time limit on work in this process: what takes longer is ended by an error, and what comes next goes on.

Imports nothing that takes long: imports of plugins are limited with it too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bdbench.errors import BdbenchError

IMPORT_SECONDS = "BDBENCH_IMPORT_SECONDS"
_IMPORT_SECONDS = 120.0
# Seconds after which the error is raised once more: code that catches every Exception may have caught the first.
_AGAIN = 10.0
# Some thirty years; the system's alarm takes no more than its clock can tell.
MOST = 1e9
CELL_SECONDS = "--cell-seconds"


class OutOfTime(RuntimeError):
    """Work took longer than it may. No BdbenchError: where it was, its traceback says."""


@contextmanager
def at_most(seconds: float | None, setting: str) -> Iterator[None]:
    """Inside, ``OutOfTime`` is raised once ``seconds`` are over (None: never), and every ten seconds from then on.

    setting: what sets the limit, for the error. The system's alarm rings in the main thread between two steps of
    Python: elsewhere there is no limit, and a library's call that does not return is not ended. Limits do not nest.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"it took more than the {seconds:g} seconds that {setting} allows")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def checked(seconds: float | None, setting: str) -> float | None:
    """A limit that ``at_most`` takes. Raises BdbenchError for any other."""
    if seconds is None or (isinstance(seconds, int | float) and 0 < seconds <= MOST):
        return seconds
    raise BdbenchError(f"{setting} {seconds!r} is not allowed: expected a number of seconds above 0, at most {MOST:g}")


def import_seconds() -> float:
    """How long the import of a plugin may take. Raises BdbenchError if the variable holds no number of seconds."""
    text = os.environ.get(IMPORT_SECONDS, "")
    try:
        seconds = float(text or _IMPORT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BdbenchError(f"{IMPORT_SECONDS} is {text!r}: expected a number of seconds above 0")
    return seconds
