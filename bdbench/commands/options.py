"""What commands share: options, warnings, and the frame of a command that exports a run. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bdbench import foreign
from bdbench.host import timeout

attack = click.option(
    "--attack",
    default=["blend"],
    show_default=True,
    multiple=True,
    metavar="SPEC",
    help="NAME or NAME:KEY=VALUE,...; given several times: a cascade of attackers on one set.",
)
data_root = click.option(
    "--data-root", envvar="BDBENCH_DATA", metavar="DIR", help="Where data sets are. [env: BDBENCH_DATA]"
)
out = click.option("--out", default="runs", show_default=True, metavar="DIR", help="Where to look for a run's id.")

SECONDS = click.FloatRange(0, timeout.MOST, min_open=True)

device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
reserve = click.option(
    "--reserve",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="The share of the training part that is set apart as clean examples, for defenses that need some.",
)

cell_seconds = click.option(
    timeout.CELL_SECONDS,
    type=float,
    metavar="SECONDS",
    callback=lambda context, option, seconds: timeout.checked(seconds, timeout.CELL_SECONDS),
    help="How long a cell may take, and before it what several share. [default: as long as it takes]",
)


def workplace(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that computes: on what, from where and to where."""
    for option in (
        click.option(
            "--out", default="runs", show_default=True, metavar="DIR", help="Where runs and stage results go."
        ),
        click.option("--download", is_flag=True, help="Let torchvision fetch a data set that is not there."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="Of large products; auto: what this machine is faster in.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="CPU threads. [default: as many as are free; of each worker and with Ray, 1]",
        ),
        data_root,
        device,
    ):
        command = option(command)
    return command


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
                    from bdbench.experiment import reopen

                    opened = reopen(folder_of(run, out), data_root=data_root, device=device, progress=bars)
                write(opened, target, bars, **own)
            click.echo(target)

        return click.command()(exported)

    return command


def warn_of_broken_plugins(known: frozenset[str] = frozenset()) -> frozenset[str]:
    """Name what is wrong with plugins and is not yet known; returns all that is wrong."""
    from bdbench.registry.plugins import KINDS, installed

    plugins = installed()
    for kind in KINDS:
        plugins.registered(kind)
    found = plugins.errors()
    for line in found:
        if line not in known:
            click.echo(f"bdbench: warning: {foreign.line(line)}", err=True)
    return frozenset(found)
