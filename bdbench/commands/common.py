"""What several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
data_root = click.option(
    "--data-root", envvar="BDBENCH_DATA", metavar="DIR", help="Where data sets are. [env: BDBENCH_DATA]"
)
download = click.option("--download", is_flag=True, help="Let torchvision fetch a data set that is not there.")
out = click.option("--out", default="runs", show_default=True, metavar="DIR", help="Where runs and stage results go.")


def workplace(command: _Command) -> _Command:
    """The options of a command that computes: on what, from where and to where."""
    for option in (out, download, data_root, device):
        command = option(command)
    return command


def warn_of_broken_plugins(known: frozenset[str] = frozenset()) -> frozenset[str]:
    """Name what is wrong with plugins and is not yet known; returns all that is wrong."""
    from bdbench.plugins import KINDS, installed

    plugins = installed()
    for kind in KINDS:
        plugins.registered(kind)
    found = plugins.errors()
    for line in found:
        if line not in known:
            click.echo(f"bdbench: warning: {line}", err=True)
    return frozenset(found)
