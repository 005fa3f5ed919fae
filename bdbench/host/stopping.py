"""Ctrl-C and SIGTERM: the work ends within two seconds, says what is kept, and which command goes on.

Nothing is lost by an end at any moment, so that there is nothing to finish first. Imports nothing that takes long: it
is listening before anything else of bdbench is loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, NoReturn

# Seconds after which the process ends by itself, whatever it is at: a library's long call, a lock, its own clean-up.
_PATIENCE = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# As it is here: in a call into foreign code another stands in its place.
_EXIT = os._exit
# Commands that work for minutes.
_LONG = ("run", "grid", "scan", "inspect")
_SHOW_CURSOR = "\x1b[?25h\n"
# Called before the process ends without unwinding: what a death would leave as if by accident.
BEFORE_END: list[Callable[[], None]] = []


class Stopped(BaseException):
    """The user stops the program. No Exception, and no KeyboardInterrupt, which components and click catch."""


class _State:
    """Of this process. signals: how many came; received: the one that ends it; kept: what the goodbye says is kept;
    settings: options that were chosen for the user, and by which that is found again.
    """

    signals: int = 0
    received: int | None = None
    kept: str = ""
    settings: ClassVar[dict[str, str]] = {}
    said: bool = False


def listen() -> None:
    """Let Ctrl-C, SIGTERM and a hang-up raise ``Stopped`` in the main thread; who called this says goodbye."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), daemon=True).start()
    for number in _SIGNALS:
        # Shells let what runs in the background ignore Ctrl-C, and nohup hang-ups.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def keeps(what: str) -> None:
    """Say what the program leaves behind that it goes on with when it is started again."""
    from bdbench import foreign

    _State.kept = foreign.line(what)


def found_with(option: str, value: object) -> None:
    """Say that what is kept is found again with an option of this value, which was chosen where the user gave none."""
    _State.settings[option] = str(value)


def signals() -> int:
    """How many signals to stop came so far: what looks like a Ctrl-C and comes without one is none."""
    return _State.signals


def check() -> None:
    """Raise ``Stopped`` if the program is to end: foreign code may have swallowed it."""
    if _State.received is not None:
        raise Stopped


def leave(code: int) -> None:
    """The ordinary end of the program, with its exit code, whatever foreign code has left to happen at the end.

    What is to be done at exit is done here, where it can end nothing. Threads that are still at work end with the
    program, which says so: it would wait for them, perhaps for ever.
    """
    os._exit = _no_exit
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        if isinstance(error, Stopped):
            raise
    finally:
        os._exit = _EXIT
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if left := _at_work():
        from bdbench import foreign

        line = f"bdbench: ended {', '.join(map(foreign.line, left[:3]))}, which a component left at work"
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
        _EXIT(code)


def _at_work() -> list[str]:
    """The names of the threads for which the program would wait, once those that only wait for work have ended."""

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if not (thread.daemon or thread is threading.main_thread())]

    if left() and "concurrent.futures.thread" in sys.modules:
        pools: Any = sys.modules["concurrent.futures.thread"]
        pools._shutdown = True
        for queue in list(pools._threads_queues.values()):
            queue.put(None)
    patience = time.monotonic() + _PATIENCE
    for thread in left():
        thread.join(max(0.0, patience - time.monotonic()))
    return [thread.name for thread in left()]


def _no_exit(status: int) -> NoReturn:
    raise SystemExit(status)


def goodbye() -> NoReturn:
    """One line on standard error, and the end: with 130 after Ctrl-C, 143 after SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    # What Python and libraries tidy up at an ordinary end takes seconds.
    _end()


@contextmanager
def noticed() -> Iterator[None]:
    """Inside, ``signals`` counts each Ctrl-C, in programs that do not ``listen`` too; what they do with it, they do."""
    before = _handler_of_another()
    if before is None:
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        _State.signals += 1
        before(number, frame)

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _handler_of_another() -> Any:
    """What handles Ctrl-C, if that is Python's or the program's own; None where it is ours, or nobody may set it."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGINT)
    return handler if callable(handler) and handler is not _on_signal else None


def _on_signal(number: int, frame: FrameType | None) -> None:
    _State.signals += 1
    if _State.received is not None:
        # Asked for once more: at once.
        _end()
    _State.received = number
    raise Stopped


def _watch(heard: int) -> None:
    """End the process some time after a signal.

    A handler waits for the call that the main thread is in, of a library perhaps; this is told at once.
    """
    while True:
        for number in os.read(heard, 64):
            if number in _SIGNALS and signal.getsignal(number) is _on_signal:
                time.sleep(_PATIENCE)
                _State.received = _State.received or number
                _end()


def abandon(code: int = 1) -> NoReturn:
    """End the process at once, without a word: its work is no more wanted."""
    for forget in BEFORE_END:
        forget()
    _EXIT(code)


def _end() -> NoReturn:
    _say()
    abandon(_code())


def _say() -> None:
    if _State.said:
        return
    _State.said = True
    line = f"bdbench: stopped{_way_on(sys.argv[1:])}"
    # Not through sys.stderr, which whoever was interrupted may hold, or have closed.
    with contextlib.suppress(OSError):
        # On a terminal a bar may stand where the cursor is, which it has hidden.
        os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}{line}\n".encode())


def _way_on(words: Sequence[str]) -> str:
    """What is kept, and the command that goes on with it or, of those that work for long, that starts again."""
    import shlex

    if _State.kept:
        # --fresh would make anew what is kept.
        again = [word for word in words if word != "--fresh"]
        given = {word.partition("=")[0] for word in words}
        chosen = [word for pair in _State.settings.items() if pair[0] not in given for word in pair]
        return f": {_State.kept}; to go on: {shlex.join(['bdbench', *again, *chosen])}"
    if words and words[0] in _LONG and "--dry-run" not in words:
        return f": nothing is kept yet; to start again: {shlex.join(['bdbench', *words])}"
    return ""


def _code() -> int:
    return 128 + (_State.received or signal.SIGINT)
