"""Conformance checks for plugins: does a component keep the contracts that the harness relies on?

A package's own tests call ``check_attack(MyAttack)`` and the like, or let pytest make one test of every check
for everything that the package registers::

    @pytest.mark.bdbench_plugin("my-plugin")
    def test_conformance(bdbench_check):
        bdbench_check()

A failed check raises Fault, which says what was expected, what was found and why it matters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture, Component, Dataset, Metric, Source
from bdbench.testing.cases import Case, cases_of, installed_cases
from bdbench.testing.checks import Fault, NotChecked

__all__ = [
    "Fault",
    "check_attack",
    "check_dataset",
    "check_defense",
    "check_metric",
    "check_model",
    "check_plugin",
    "check_reporter",
]


def check_attack(attack: Attack | type[Attack]) -> None:
    """Check an attack, or the attack that a class makes of its defaults. Raises Fault."""
    _run(cases_of("attack", _made(attack)))


def check_defense(defense: Defense | type[Defense]) -> None:
    """Check a defense of any stage, or the one that a class makes of its defaults. Raises Fault."""
    _run(cases_of("defense", _made(defense)))


def check_dataset(dataset: Dataset | type[Dataset], root: Path | None = None) -> None:
    """Check a data set whose files are below ``root``. Raises Fault.

    Where the files are not there, only what can be said without them is checked.
    """
    _run(cases_of("dataset", _made(dataset), Source(root)))


def check_model(model: Architecture | type[Architecture]) -> None:
    """Check an architecture, or the one that a class makes of its defaults. Raises Fault."""
    _run(cases_of("model", _made(model)))


def check_metric(metric: Metric) -> None:
    """Check a metric. Raises Fault."""
    _run(cases_of("metric", metric))


def check_reporter(reporter: Any) -> None:
    """Check a module, or an object, that implements some of the hooks on runs. Raises Fault.

    Its hooks are called with a sample run whose id begins with "conformance", in a temporary working folder.
    """
    _run(cases_of("reporter", reporter))


def check_plugin(name: str) -> None:
    """Check all that an installed plugin registers: ``name`` is that of its entry point or distribution.

    Raises Fault, and BdbenchError if there is no such plugin.
    """
    _run(installed_cases([name]))


def _made(component: Component | type[Component]) -> Component:
    return component() if isinstance(component, type) else component


def _run(cases: list[Case]) -> None:
    for case in cases:
        try:
            case.run()
        except NotChecked:
            continue
