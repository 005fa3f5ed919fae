"""What commands share: options, and the frame of a command that exports a run. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

data_root = click.option(
    "--data-root", envvar="BDBENCH_DATA", metavar="DIR", help="Where data sets are. [env: BDBENCH_DATA]"
)
out = click.option("--out", default="runs", show_default=True, metavar="DIR", help="Where to look for a run's id.")

device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


def folder_of(run: str, out: str) -> Path:
    """The folder or file of a run that is given by it or by its id."""
    return Path(run) if Path(run).exists() else Path(out) / run


def export_command(target: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command ``RUN TARGET`` of a function that writes a run somewhere.

    The function is handed the run (``Reopened``), the target (a Path), the progress bars (``Bars``) and the options
    that click decorators gave it; its name and docstring are the command's.
    """

    def command(write: Callable[..., None]) -> click.Command:
        @click.argument("run", metavar="RUN")
        @click.argument("target", metavar=target, type=click.Path(path_type=Path))
        @out
        @data_root
        @device
        @functools.wraps(write)
        def exported(run: str, target: Path, out: str, data_root: str | None, device: str, **own: Any) -> None:
            from bdbench import progress

            with progress.bars() as bars:
                with bars.busy("open the run"):
                    from bdbench.runs import reopen

                    opened = reopen(folder_of(run, out), data_root=data_root, device=device, progress=bars)
                write(opened, target, bars, **own)
            click.echo(target)

        return click.command()(exported)

    return command
