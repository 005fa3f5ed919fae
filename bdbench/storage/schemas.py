"""JSON that is published: its schemas, and how it is checked and written. Imports no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from bdbench.errors import BdbenchError


def schema(file: str) -> dict[str, Any]:
    """The JSON schema in the package's file of that name."""
    return json.loads(resources.files("bdbench").joinpath(file).read_text())


def check(data: Any, file: str, what: str, where: str) -> None:
    """Raise BdbenchError, which says ``where`` it is, unless ``data`` is a valid ``what`` by the schema in ``file``."""
    import fastjsonschema

    try:
        _validator(file)(data)
    except fastjsonschema.JsonSchemaValueException as error:
        place = "/".join(error.path[1:]) or "top level"
        raise BdbenchError(f"{where}: not a valid {what} at {place}: {error.message}") from None


def dumps(data: Mapping[str, Any]) -> str:
    """JSON as text: the same data always give the same text."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


@functools.cache
def _validator(file: str) -> Callable[[Any], Any]:
    """Compiled from the schema: tables are made of thousands of records."""
    import fastjsonschema

    return fastjsonschema.compile(schema(file))
