"""Which checks a plugin has to pass: one case for each check of each thing it registers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bdbench.components import params
from bdbench.components.interfaces import Component, Source
from bdbench.errors import unknown
from bdbench.registry.plugins import KINDS, Plugin, Registration, installed
from bdbench.testing.checks import CHECKS, Check
from bdbench.testing.kinds import kind_of

# Where the checks of a kind are, if not in one module of its name.
_MODULES = {"attack": ("attack", "challenge", "crafting")}
REPORTING = {"bdbench_run_started", "bdbench_stage_finished", "bdbench_run_finished"}


@dataclass(frozen=True)
class Case:
    """One check of one thing, which messages call ``title``, such as "attack 'blend'"."""

    title: str
    check: Check
    subject: Any

    def run(self) -> None:
        """Make the check. Raises Fault, or NotChecked."""
        self.check.run(self.title, self.subject)


def cases_of(kind: str, subject: Any, source: Source | None = None, title: str = "") -> list[Case]:
    """The cases of one component, Metric, reporter or Plugin. source: where a data set may read from."""
    title = title or f"{kind} {getattr(subject, 'name', subject)!r}"
    kinds = ["component", kind] if isinstance(subject, Component) else [kind]
    if kind == "defense" and (own := kind_of(subject)):
        kinds.insert(1, own)
    checks = [c for kind in kinds for c in _checks(kind)]
    return [Case(title, c, (subject, source or Source()) if c.kind == "dataset" else subject) for c in checks]


def installed_cases(names: Sequence[str], using: Sequence[str] = (), source: Source | None = None) -> list[Case]:
    """The cases of the installed plugins, or of all plugins of the distributions, called ``names``.

    using: components with parameters, ``name:key=value``, to check in place of those with the defaults.
    Raises BdbenchError if there is no such plugin, or none of them has such a component.
    """
    plugins = installed()
    # All hooks are called first: what fails in one is an error of its plugin.
    registered = {kind: plugins.registered(kind) for kind in KINDS}
    for name in names:
        known = {n for p in plugins.found for n in p.key}
        if name not in known:
            raise unknown("plugin", name, known)
    chosen = [p for p in plugins.found if set(names) & set(p.key)]
    own = [(kind, r) for kind, regs in registered.items() for r in regs if r.plugin in chosen]
    for spec in using:
        component = params.parse_spec(spec)[0]
        if component not in {r.name for _, r in own}:
            raise unknown(f"component of {', '.join(names)}", component, {r.name for _, r in own})
    cases = [case for plugin in chosen for case in _of_module(plugin)]
    for kind, registration in own:
        for subject in _components(kind, registration, using):
            cases += cases_of(kind, subject, source)
    return cases


def _of_module(plugin: Plugin) -> list[Case]:
    cases = cases_of("plugin", plugin)
    if REPORTING & set(plugin.hooks):
        cases += cases_of("reporter", installed().module(plugin), title=f"reporter {plugin.name!r}")
    return cases


def _components(kind: str, registration: Registration, using: Sequence[str]) -> list[Any]:
    specs = [spec for spec in using if params.parse_spec(spec)[0] == registration.name]
    if specs:
        return [installed().component(kind, spec) for spec in specs]
    component = registration.component
    return [component() if isinstance(component, type) else component]


def _checks(kind: str) -> list[Check]:
    for module in _MODULES.get(kind, (kind,)):
        importlib.import_module(f"bdbench.testing.{module}")
    return CHECKS[kind]
