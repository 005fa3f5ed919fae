"""The datamodel detector of Khaddaj et al., Rethinking Backdoor Attacks, ICML 2023.

``plan``, by ``options``, and ``ensemble`` train many small networks on random subsets; ``estimators``, ``ridge`` and
``lasso`` turn their margins into a train-on-train matrix, which ``influence`` gives whole or by blocks; ``search``,
in steps of ``climb``, finds the subsets that support each other most; ``standout`` finds the strongest group of every
class; ``separation`` tells a group from its class-mates by a discriminant, ``sharpest`` finds the one that is told
best, both by the regressions of ``spectrum``; ``suspects`` are what came of that in each class, ``withheld`` says
what networks lose without them and ``evidence`` judges; ``scoring`` compares classes where that says little;
``detector`` puts these together. ``strength`` and ``study`` look at a finished run with the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bdbench import Detector, hookimpl

if TYPE_CHECKING:
    import click

    from bdbench import Reopened, ReportSection


@hookimpl
def bdbench_register_defenses() -> list[type[Detector]]:
    """The datamodel detector."""
    from bdbench_datamodel.detector import Datamodel

    return [Datamodel]


@hookimpl
def bdbench_add_commands(cli: click.Group) -> None:
    """Feature strength."""
    from bdbench_datamodel.commands import strength

    cli.add_command(strength)


@hookimpl
def bdbench_report_sections(run: Reopened) -> Iterable[ReportSection]:
    """The matrix and feature strength of a datamodel run."""
    from bdbench_datamodel.study import sections

    return sections(run)
