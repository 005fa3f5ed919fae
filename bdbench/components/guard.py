"""Calls into code that is not ours: components, metrics, reporters, whatever a plugin brings.

Such code may end the process, or leave the settings of libraries and of the process other than they were. Here neither
gets any further than the call. What cannot be met in one process (a crash, memory that runs out) is met by the engines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from bdbench.errors import one_line
from bdbench.host import stopping
from bdbench.host.put_back import put_back

if TYPE_CHECKING:
    import numpy as np

    from bdbench.components.interfaces import Component


# As the system has it: inside a call another stands in its place.
_EXIT = os._exit


class Quit(RuntimeError):
    """A component raised what ends a program: it is that component's failure, and ends nothing else."""


@contextmanager
def call(component: Component | None = None) -> Iterator[None]:
    """Inside, foreign code runs: what it changes that others share is put back, and its errors are known as its own.

    component: whose code it is, for ``whose``; the innermost counts. An exit or a KeyboardInterrupt that nobody asked
    for becomes ``Quit``, and so does ``os._exit``. A process that was forked in there and comes back ends.
    """
    own = os.getpid()
    with stopping.noticed(), put_back(), _no_way_out():
        before = stopping.signals()
        try:
            yield
        except Exception as error:
            _blame(error, component)
            raise
        except BaseException as error:
            if stopping.signals() > before:
                raise
            quit_ = Quit(f"it raised {one_line(error)}, which ends programs: expected an error")
            _blame(quit_, component)
            raise quit_ from error
        finally:
            if os.getpid() != own:
                _EXIT(1)
            stopping.check()


def whose(error: BaseException) -> Component | None:
    """The component that an error came from, if it came from one."""
    return vars(error).get("bdbench_component")


def _blame(error: Exception, component: Component | None) -> None:
    if whose(error) is None:
        vars(error)["bdbench_component"] = component


def read_only(array: np.ndarray) -> np.ndarray:
    """A view of an array that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def freeze(*parts: object) -> None:
    """Let nobody write to the arrays that are the fields of ``parts``, or the values of those that are mappings."""
    import numpy as np

    for part in parts:
        for value in () if part is None else (part if isinstance(part, Mapping) else vars(part)).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False


@contextmanager
def _no_way_out() -> Iterator[None]:
    """``os._exit``, which would end the program without a word, raises in this process; in others it is as it is."""
    own, before = os.getpid(), os._exit

    def refused(status: int) -> NoReturn:
        if os.getpid() != own:
            _EXIT(status)
        raise SystemExit(status)

    os._exit = refused
    try:
        yield
    finally:
        os._exit = before
