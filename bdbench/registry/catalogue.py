"""What is installed: components with their parameters, and the plugins that they came from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from bdbench.components import params
from bdbench.components.configs import short_spec
from bdbench.components.interfaces import Component
from bdbench.errors import unknown
from bdbench.registry.plugins import KINDS, Registration, installed


def catalogue(what: Iterable[str], names: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """JSON-able entries for each of 'attacks', 'defenses', 'datasets', 'models', 'metrics' and 'plugins'.

    names: of the entries alone (none: all). Raises BdbenchError for one that is in none of them.
    """
    plugins = installed()
    # Every registration hook is called first, so that what fails in one is known when plugins are listed.
    registered = {plural: plugins.registered(kind) for kind, plural in KINDS.items()}
    entries = {
        w: [{**asdict(p), "error": "; ".join(plugins.errors_of(p)) or None} for p in plugins.found]
        if w == "plugins"
        else [_entry(r) for r in registered[w]]
        for w in what
    }
    known = {entry["name"] for listed in entries.values() for entry in listed}
    for name in names:
        if name not in known:
            raise unknown(" or ".join(w.removesuffix("s") for w in entries), name, known)
    return {w: [e for e in listed if not names or e["name"] in names] for w, listed in entries.items()}


def _entry(registration: Registration) -> dict[str, Any]:
    component = registration.component
    is_class = isinstance(component, type)  # all but metrics, which are objects without parameters
    text = (inspect.getdoc(component) or "") if is_class else component.help
    return {
        "name": registration.name,
        "help": text.split("\n\n")[0].replace("\n", " "),
        "parameters": [_parameter(p) for p in params.describe(component)] if is_class else [],
        "oracles": list(getattr(component, "oracles", ())),
        **_of_kind(component),
        "paper": getattr(component, "paper", ""),
        "plugin": registration.plugin.name,
        "distribution": registration.plugin.distribution,
        "version": registration.plugin.version,
    }


def _parameter(parameter: params.Parameter) -> dict[str, Any]:
    default = parameter.default
    if isinstance(default, tuple):
        default = [short_spec(one) if isinstance(one, Component) else one for one in default]
    return {**vars(parameter), "default": default}


def _of_kind(component: Any) -> dict[str, Any]:
    """What is asked of attacks and of defenses alone."""
    kind = getattr(component, "kind", None)
    if kind == "attack":
        return {"control": component.control, "plants": component.plants, "trains": component.trains}
    if kind == "defense":
        return {
            "stage": component.stage,
            "access": list(component().access),
            "assumption": component.assumption,
        }
    return {}
