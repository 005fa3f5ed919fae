"""The bridge to BackdoorBench: its records in, our runs out, and our detectors inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bdbench import Attack, Dataset, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def bdbench_register_attacks() -> list[type[Attack]]:
    """A record as an attack, and its victim alone."""
    from bdbench_backdoorbench.attack import BackdoorBenchRecord, BackdoorBenchVictim

    return [BackdoorBenchRecord, BackdoorBenchVictim]


@hookimpl
def bdbench_register_datasets() -> list[type[Dataset]]:
    """The data sets of BackdoorBench whose order torchvision's do not have."""
    from bdbench_backdoorbench.datasets import GTSRBFull, TinyImageNet

    return [GTSRBFull, TinyImageNet]


@hookimpl
def bdbench_add_commands(cli: click.Group) -> None:
    """Import, export, and export of detectors."""
    from bdbench_backdoorbench.commands import add

    add(cli)
