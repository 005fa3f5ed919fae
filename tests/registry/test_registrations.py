"""What a plugin registers is looked at: what cannot be used is named, and the rest works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bdbench import Detector, hookimpl, param
from bdbench.registry.plugins import Plugins
from tests.registry.conftest import Flat, Load, bdbench_register_defenses


def _raising() -> list[type]:
    raise RuntimeError("out of luck")


def _of_wrong_kind() -> list[type]:
    return [int]


def _abstract() -> list[type]:
    return [Detector]


def _no_dataclass() -> list[type]:
    class Plain(Flat):
        name = "plain"

    return [Plain]


def _required_field() -> list[type]:
    @dataclass(frozen=True, kw_only=True)
    class Needy(Flat):
        name = "needy"
        need: int

    return [Needy]


def _bad_name() -> list[type]:
    @dataclass(frozen=True, kw_only=True)
    class Named(Flat):
        name = "a b/c"

    return [Named]


def _made(**parts: Any) -> Callable[[], list[type]]:
    """A hook that registers a detector with these annotated fields, (type, default), and plain attributes."""
    fields = {name: part for name, part in parts.items() if isinstance(part, tuple) and len(part) == 2}
    plain = {"name": "made", **{name: part for name, part in parts.items() if name not in fields}}
    body = {"__annotations__": {n: t for n, (t, _) in fields.items()}, **{n: v for n, (_, v) in fields.items()}}
    cls = dataclass(frozen=True, kw_only=True)(type("Made", (Flat,), {**plain, **body, "__module__": __name__}))
    return lambda: [cls]


def _a_class() -> Any:
    return Flat


def _twice() -> list[type]:
    return [Flat, Flat]


def _first_of_two() -> list[Any]:
    return [_made(name="sound")()[0], 3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_a_class, "it returned tests.registry.conftest.Flat: expected a list of what it registers"),
        (_twice, "it returned 'flat' twice: expected a name of its own for each"),
        (_first_of_two, "3 is no subclass of bdbench.Defense"),
        (_made(name="x" * 65), "a name of 65 characters: expected at most 64"),
        # What a base has already: as a parameter, a user would set it.
        (_made(name=(str, "made")), "Made: parameter 'name' is what Flat has already: expected another name, or no"),
        (_made(oracles=(tuple[str, ...], ())), "parameter 'oracles' is what Defense has already"),
        (_made(config=(int, 3)), "parameter 'config' is what Component has already"),
        (_made(sizes=(list[int], None)), "parameter 'sizes' is list[int]: expected bool, int, float, str, Literal"),
        (_made(size=(Any, 3)), "parameter 'size' is Any: expected bool, int"),
        (_made(size=(tuple[int, int], (1, 2))), "parameter 'size' is tuple[int, int]: expected bool, int"),
        (_made(oracles="clean_set"), "has oracles='clean_set': expected a tuple of names"),
        (_made(oracles=("poisons_rate",)), "unknown oracle of Made 'poisons_rate': did you mean 'poison_rate'"),
        (_made(know=(bool, param(False, help="h", oracle="rate"))), "unknown oracle of Made 'rate'"),
        (_made(know=(int, param(3, help="h", oracle="poison_rate"))), "'know' has an oracle: expected a bool"),
        (_raising, "out of luck"),
        (_of_wrong_kind, "no subclass of bdbench.Defense"),
        (_abstract, "does not implement"),
        (_no_dataclass, "Plain is no dataclass"),
        (_required_field, "need"),
        (_bad_name, "has the name 'a b/c'"),
    ],
)
def test_a_registration_that_fails_is_named(
    plugins: Plugins, load: Load, function: Callable[[], list[type]], message: str
) -> None:
    load("bad", bdbench_register_defenses=hookimpl(function))
    # pluggy finds hooks by name, so the function must have the hook's.
    load("one", bdbench_register_defenses=bdbench_register_defenses)
    assert [r.name for r in plugins.registered("defense")] == ["flat"]
    assert any("'bad'" in e and message in e for e in plugins.errors())
