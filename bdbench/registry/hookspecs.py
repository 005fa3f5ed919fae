"""Every hook of bdbench, on one page.

A plugin package declares an entry point in the group ``bdbench`` that names a module, and implements the
hooks it wants with ``@bdbench.hookimpl``. Import heavy libraries inside functions: the module itself is
loaded by every command.

A hook implementation takes only the arguments it wants, by their names. A module that needs hooks or
arguments which older versions of bdbench lack says so with ``BDBENCH_HOOKS = N``, the VERSION it was written for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from bdbench.cells.runs import Reopened
    from bdbench.components.attacks import Attack
    from bdbench.components.defenses import Defense, ModelDetector
    from bdbench.components.interfaces import Architecture, Dataset, Metric, ReportSection, ReversedTrigger
    from bdbench.components.workshop import Tools

GROUP = "bdbench"
# Raised by one when a hook or an argument is added. None is ever removed or renamed, so older plugins go on working.
VERSION = 2
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def bdbench_register_datasets() -> Iterable[type[Dataset]]:  # type: ignore[empty-body]
    """Dataset classes."""


@hookspec
def bdbench_register_models() -> Iterable[type[Architecture]]:  # type: ignore[empty-body]
    """Architecture classes."""


@hookspec
def bdbench_register_attacks() -> Iterable[type[Attack]]:  # type: ignore[empty-body]
    """Attack classes."""


@hookspec
def bdbench_register_defenses() -> Iterable[type[Defense]]:  # type: ignore[empty-body]
    """Defense classes, of any stage: Detector, RobustTraining, Mitigation, InputDetector, ModelDetector."""


@hookspec
def bdbench_register_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Metrics, each computed for every cell and stored under ``extra`` in its record."""


@hookspec
def bdbench_run_started(run_id: str, config: dict[str, Any]) -> None:
    """One cell begins; ``config`` is the record's."""


@hookspec
def bdbench_stage_finished(run_id: str, stage: str, seconds: float, reused: bool) -> None:
    """A stage of a cell is done: its wall seconds, and whether its result was found instead of computed.

    Stages that several defenses share (data, craft, poison, victim, reference) are reported once, under the first
    cell that needs them.
    """


@hookspec
def bdbench_run_finished(run_id: str, record: dict[str, Any]) -> None:
    """A cell is done and its record is on disk; ``record`` is what record.json holds."""


@hookspec
def bdbench_report_sections(run: Reopened) -> Iterable[ReportSection]:  # type: ignore[empty-body]
    """Pictures for the report of a run: such as only the plugin of its attack or defense can draw.

    Look at ``run.defense`` or ``run.attack`` first; for other runs than one's own, return nothing: ``[]``.
    """


@hookspec
def bdbench_reversed_triggers(defense: ModelDetector, tools: Tools) -> Iterable[ReversedTrigger]:  # type: ignore[empty-body]
    """What a model detector reversed, for ``bdbench inspect``. Since version 2.

    ``defense.inspect(tools)`` has been called with tools like these; what it saved is found again. For other detectors
    than one's own, return nothing: ``[]``.
    """


@hookspec
def bdbench_add_commands(cli: click.Group) -> None:
    """Add commands to the ``bdbench`` program."""
