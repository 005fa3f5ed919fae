"""What a component has to be before anybody can use it: of its kind, with a name and parameters as they are read."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from bdbench.components import params
from bdbench.errors import BdbenchError, unknown

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# Folders are called by four of them.
_LONGEST = 64


def registrable(kind: str, results: Sequence[Any]) -> list[Any]:
    """What a hook registers, each of it as it should be. Raises BdbenchError: a part of it is none of it."""
    for result in results:
        if isinstance(result, type | str) or not isinstance(result, Iterable):
            raise BdbenchError(f"it returned {_called(result)}: expected a list of what it registers")
    components = [component for result in results for component in result]
    for component in components:
        _check_component(kind, component)
    names = [component.name for component in components]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BdbenchError(f"it returned {twice[0]!r} twice: expected a name of its own for each")
    return components


def _check_component(kind: str, component: Any) -> None:
    from bdbench.components import attacks, defenses, interfaces

    bases = {
        "dataset": interfaces.Dataset,
        "model": interfaces.Architecture,
        "attack": attacks.Attack,
        "defense": defenses.Defense,
    }
    if kind == "metric":
        if not isinstance(component, interfaces.Metric):
            raise BdbenchError(f"{_called(component)} is no bdbench.Metric")
    elif not (isinstance(component, type) and issubclass(component, bases[kind])):
        raise BdbenchError(f"{_called(component)} is no subclass of bdbench.{bases[kind].__name__}")
    elif inspect.isabstract(component):
        missing = ", ".join(sorted(component.__abstractmethods__))
        raise BdbenchError(f"{component.__name__} does not implement {missing}")
    name = getattr(component, "name", None)
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise BdbenchError(f"{_called(component)} has the name {name!r}: expected letters, digits, '.', '_' and '-'")
    if len(name) > _LONGEST:
        raise BdbenchError(f"{_called(component)} has a name of {len(name)} characters: expected at most {_LONGEST}")
    if kind != "metric":
        _check_parameters(component)
    if kind == "defense":
        _check_oracles(component)


def _called(component: Any) -> str:
    """What somebody who wrote it calls it: a class by its name."""
    return f"{component.__module__}.{component.__qualname__}" if isinstance(component, type) else repr(component)


def _check_parameters(component: Any) -> None:
    if "__dataclass_params__" not in vars(component) or not component.__dataclass_params__.frozen:
        raise BdbenchError(f"{component.__name__} is no dataclass: expected @dataclass(frozen=True, kw_only=True)")
    own = {field.name for field in dataclasses.fields(component)}
    for base in component.__mro__[1:]:
        fields = {field.name for field in dataclasses.fields(base)} if dataclasses.is_dataclass(base) else set()
        if taken := sorted(own & vars(base).keys() - fields):
            has = f"{component.__name__}: parameter {taken[0]!r} is what {base.__name__} has already"
            raise BdbenchError(f"{has}: expected another name, or no annotation")
    for name, told in params.unknown_types(component):
        raise BdbenchError(f"{component.__name__}: parameter {name!r} is {told}: expected {params.TYPES}")
    try:
        json.dumps(component().config())
    except TypeError as error:
        raise BdbenchError(f"{component.__name__}: {error}; expected a JSON default for every field") from None


def _check_oracles(defense: Any) -> None:
    """Raise BdbenchError unless a defense asks for what there is, and each parameter that asks is a bool."""
    from bdbench.components.workshop import Oracle

    known = get_args(Oracle)
    if not isinstance(defense.oracles, tuple):
        raise BdbenchError(f"{defense.__name__} has oracles={defense.oracles!r}: expected a tuple of names")
    asked = params.asked(defense)
    for oracle in (*defense.oracles, *(name for _, name in asked)):
        if oracle not in known:
            raise unknown(f"oracle of {defense.__name__}", oracle, known)
    for name, _ in asked:
        if not isinstance(getattr(defense(), name), bool):
            raise BdbenchError(f"{defense.__name__}: parameter {name!r} has an oracle: expected a bool")
