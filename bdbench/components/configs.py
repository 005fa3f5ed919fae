"""The config of a record: its components and their parameters, what they were made of, and their names."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bdbench.components.interfaces import Component
from bdbench.components.params import plain, quoted
from bdbench.errors import BdbenchError
from bdbench.storage.store import key_of

KINDS = ("dataset", "model", "attack", "defense")


def parameters(component: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a component's config; none that is null, so that a new one changes no old cell."""
    told = {k: v for k, v in component.items() if k != "name" and v is not None}
    return {k: [{"name": p["name"], **parameters(p)} for p in v] if _of_others(v) else v for k, v in told.items()}


def parts(component: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configs of the components that one is made of, each followed by those that it is made of."""
    own = [one for value in component.values() if _of_others(value) for one in value]
    return [part for one in own for part in (one, *parts(one))]


def _of_others(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def cell_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a user asks for, seeds apart: the components, the budget and the reserve."""
    parts = {kind: {"name": config[kind]["name"], **parameters(config[kind])} for kind in KINDS}
    return {**parts, "budget": config["budget"], "reserve": config.get("reserve", 0.0)}


def source(config: Mapping[str, Any]) -> str:
    """The hash of the data set as it was read; "" where the record does not say."""
    return config.get("data", {}).get("source", "")


def made_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What it was made of beside that: the data set as it was read, the recipe, files, and the components' code.

    Records of one cell that differ here are of two experiments, and in no average together.
    """
    return {
        "source": source(config),
        "recipe": config["recipe"],
        "files": sorted(config.get("files", {}).values()),
        "code": config.get("code", {}),
    }


def identity(config: Mapping[str, Any]) -> str:
    """A hash of ``made_of``, 8 hexadecimal digits."""
    return key_of(made_of(config))[:8]


def check_budget(budget: Any) -> float | Literal["auto"]:
    """The share of the training set to remove, as a number, or "auto". Raises BdbenchError unless it is in [0, 1)."""
    if budget == "auto":
        return "auto"
    share = _fraction(budget)
    if share is None:
        raise BdbenchError(f"budget={budget} is not allowed: expected a fraction in [0, 1), or auto")
    return share


def check_reserve(reserve: Any) -> float:
    """The share of the training part that is set apart, as a number. Raises BdbenchError unless it is in [0, 1)."""
    share = _fraction(reserve)
    if share is None:
        raise BdbenchError(f"reserve={reserve} is not allowed: expected a share in [0, 1)")
    return share


def _fraction(value: Any) -> float | None:
    """A number in [0, 1), which may be written as text; None for anything else."""
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(plain(value), bool) and 0 <= float(value) < 1:
            return float(value)
    return None


def targets(facts: Mapping[str, Any]) -> list[str]:
    """The labels that triggers are to give, of the ``data`` in a config, each with its class's name if it has one."""
    names = facts.get("target_names", [""] * len(facts["targets"]))
    return [f"{t} ({name})" if name else str(t) for t, name in zip(facts["targets"], names, strict=True)]


def spec(component: Mapping[str, Any]) -> str:
    """A component's config as the command line takes it: ``name:key=value,...``."""
    values = ",".join(f"{k}={quoted(v) if isinstance(v, str) else shown(v)}" for k, v in parameters(component).items())
    return f"{component['name']}:{values}" if values else component["name"]


def command(config: Mapping[str, Any], seed: int) -> str:
    """The command that makes the record of ``config`` and ``seed``, for a shell."""
    options = {**{kind: spec(config[kind]) for kind in KINDS}, "budget": config["budget"], "seed": seed}
    options |= {"reserve": config["reserve"]} if "reserve" in config else {}
    words = [word for k, v in options.items() if v is not None for word in (f"--{k}", f"{v}")]
    return shlex.join(["bdbench", "run", *words])


def shown(value: Any) -> str:
    """A parameter's value in a config as the command line takes it."""
    if _of_others(value):
        return "+".join(f"[{text}]" if ":" in text else text for text in map(spec, value))
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def labels(components: Sequence[Mapping[str, Any]], always: tuple[str, ...] = ()) -> list[str]:
    """A short name for each component of a record's config: its name, and those of its parameters that tell
    it from its namesakes in the list or are named in ``always``. One that is made of others names them likewise.
    """
    inner = [part for own in components for v in own.values() if _of_others(v) for part in v]
    named = iter(labels(inner, always) if inner else ())
    told: dict[str, set[str]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for own in components:
        other = first.setdefault(own["name"], own)
        differing = {k for k in {*own, *other} if own.get(k) != other.get(k)}
        told.setdefault(own["name"], set(always)).update(differing)
    return [
        " ".join(
            [
                own["name"],
                *(
                    " & ".join(itertools.islice(named, len(v))) if _of_others(v) else f"{k}={shown(v)}"
                    for k, v in own.items()
                    if _of_others(v) or k in told[own["name"]]
                ),
            ]
        )
        for own in components
    ]


def short_spec(component: Component) -> str:
    """A component's spec with the parameters that are not the defaults, its own and those of what it is made of."""
    return spec(_changed(component))


def _changed(component: Component) -> dict[str, Any]:
    own, default = component.config(), type(component)().config()
    changed = {"name": own.pop("name")}
    for key, value in own.items():
        if value == default[key]:
            continue
        # Else what is null is left out of a spec.
        changed[key] = "none" if value is None else value
        if _of_others(value):
            changed[key] = [_changed(part) for part in getattr(component, key)]
    return changed
