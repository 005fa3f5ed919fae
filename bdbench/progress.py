"""Progress bars: the interface that work reports to, a silent one, and rich's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Track = Callable[[int, str], Callable[[int], None]]
"""Starts a bar of so many steps under a label; the result is called with the steps done since the last call."""


def quiet(total: int, label: str) -> Callable[[int], None]:
    """A Track that shows nothing."""
    return lambda steps: None


class Progress(Protocol):
    """Where long work says how far it is."""

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """Start a bar of ``total`` steps; the result is called with the steps done since the last call."""
        ...


class Silent:
    """Shows nothing."""

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """A bar that is not there."""
        return quiet(total, label)


class _Bars:
    def __init__(self, bars: object) -> None:
        self._bars = bars

    def track(self, total: int, label: str) -> Callable[[int], None]:
        from rich.progress import Progress as RichProgress

        bars = self._bars
        assert isinstance(bars, RichProgress)
        task = bars.add_task(label, total=total)
        return lambda steps: bars.advance(task, steps)


@contextmanager
def bars() -> Iterator[Progress]:
    """Rich progress bars on standard error, one a stage, with the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as rich:
        yield _Bars(rich)
