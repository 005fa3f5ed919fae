"""What data sets, models, attacks and defenses have in common."""

from __future__ import annotations

import json
from pathlib import Path

from bdbench.components import params
from bdbench.components.interfaces import Component
from bdbench.registry.plugins import installed
from bdbench.testing.checks import check, expect


@check("component")
def says_what_it_is(component: Component) -> None:
    """A docstring, and one line of help for every parameter: ``field: int = param(3, help="...")``.

    ``bdbench list`` shows both, and there is nothing else that a user could choose by.
    """
    cls = type(component)
    expect(cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring")
    silent = [p.name for p in params.describe(cls) if not p.help]
    expect(not silent, f"no help for {', '.join(silent)}")


@check("component")
def comes_back_from_its_config(component: Component) -> None:
    """``config()`` is JSON, and with it the same component can be built again.

    A record holds this config and nothing else; two different components with one config would share results.
    """
    values = json.loads(json.dumps(component.config()))
    expect(values.pop("name", None) == component.name, f"config() names {component.config().get('name')!r}")
    again = params.make(type(component), component.kind, values, installed().component)
    expect(again == component, f"{component} became {again}")


@check("component")
def names_its_files_as_paths(component: Component) -> None:
    """``files()`` is a tuple of pathlib.Path: what it reads beside what it is handed, and the same every time.

    A run is known by what these files hold; what is not named there may change, and old results pass for new ones.
    """
    found = component.files()
    strange = {type(path).__name__ for path in found if not isinstance(path, Path)}
    expect(isinstance(found, tuple) and not strange, f"a {type(found).__name__} of {', '.join(strange) or 'Path'}")
    expect(found == component.files(), "other files the second time")
