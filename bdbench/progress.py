"""Progress bars: the interface that work reports to, a silent one, and rich's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

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

    def section(self) -> AbstractContextManager[None]:
        """Work whose bars are taken away when it ends."""
        ...


class Silent:
    """Shows nothing."""

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """A bar that is not there."""
        return quiet(total, label)

    def section(self) -> AbstractContextManager[None]:
        """Nothing to take away."""
        return nullcontext()


class Bars:
    """Rich's progress bars."""

    def __init__(self, rich: RichProgress) -> None:
        self._rich = rich

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """Add a bar."""
        task = self._rich.add_task(label, total=total)
        return lambda steps: self._rich.advance(task, steps)

    def say(self, line: str, err: bool = True) -> None:
        """Print a line above the bars."""
        import click

        with self._aside():
            click.echo(line, err=err)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Inside, the bars are off the screen."""
        live = self._rich.live
        shown = live.is_started
        if shown:
            self._rich.stop()
        yield
        if shown:
            self._rich.start()

    @contextmanager
    def section(self) -> Iterator[None]:
        """Take the bars that are started inside away at its end."""
        before = set(self._rich.task_ids)
        try:
            yield
        finally:
            for task in set(self._rich.task_ids) - before:
                self._rich.remove_task(task)

    @contextmanager
    def busy(self, label: str) -> Iterator[None]:
        """A bar without an end, which goes when the block does."""
        task = self._rich.add_task(label, total=None)
        try:
            yield
        finally:
            self._rich.remove_task(task)


@contextmanager
def bars() -> Iterator[Bars]:
    """Rich progress bars on standard error, one a stage, with the time left; nothing where no terminal is."""
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
    console = Console(stderr=True)
    rich = RichProgress(*columns, console=console, disable=not console.is_terminal)
    # Not entered where it shows nothing: before version 15 it leaves an empty line also then.
    with rich if console.is_terminal else nullcontext():
        yield Bars(rich)
