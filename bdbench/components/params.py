"""Typed parameters of a component, from the command line or from Python, with clear errors.

A component is a frozen dataclass whose fields are its parameters. ``param`` adds to a field what a type
cannot say: the range, the choices, and a line of help.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import unicodedata
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from bdbench.errors import BdbenchError, unknown

_QUOTES = ("'", '"')
# Of attacks.
_LABELS = ("target", "source")
# What a parameter may be, in words.
TYPES = "bool, int, float, str, Literal, tuple[T, ...] of these, or one of them or None"
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class _Limits:
    help: str = ""
    low: float | None = None
    high: float | None = None
    exclusive: bool = False
    oracle: str | None = None

    def allowed(self) -> str:
        left, right = "()" if self.exclusive else "[]"
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"{'>' if self.exclusive else '>='} {self.low:g}"
        if self.low is None:
            return f"{'<' if self.exclusive else '<='} {self.high:g}"
        return f"in {left}{self.low:g}, {self.high:g}{right}"

    def admits(self, value: float) -> bool:
        if self.exclusive:
            return (self.low is None or value > self.low) and (self.high is None or value < self.high)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def param(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    exclusive: bool = False,
    oracle: str | None = None,
) -> Any:
    """A dataclass field with one line of ``help`` and a range; ``exclusive`` leaves the bounds themselves out.

    oracle: what a defense is told where this parameter, a bool, is true.
    """
    return dataclasses.field(default=default, metadata={"limits": _Limits(help, low, high, exclusive, oracle)})


class ClassName(str):
    """A class of the data set, in the place of its label, until the data set is there to say which that is."""

    __slots__ = ()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component class, as ``bdbench list`` shows it."""

    name: str
    type: str
    default: Any
    help: str
    allowed: str


# Of each class, looked up once: a plan of many cells asks for them thousands of times.
_KNOWN: weakref.WeakKeyDictionary[type, dict[str, tuple[Any, dataclasses.Field[Any]]]] = weakref.WeakKeyDictionary()


def _fields(cls: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    if cls not in _KNOWN:
        hints = typing.get_type_hints(cls)
        _KNOWN[cls] = {f.name: (hints[f.name], f) for f in dataclasses.fields(cls)}
    return _KNOWN[cls]


def _limits(field: dataclasses.Field[Any]) -> _Limits:
    limits = field.metadata.get("limits", _Limits())
    assert isinstance(limits, _Limits)
    return limits


def describe(cls: type) -> list[Parameter]:
    """The parameters of a component class, in the order of its fields."""
    return [
        Parameter(name, _type_name(hint), field.default, _limits(field).help, _allowed(hint, field))
        for name, (hint, field) in _fields(cls).items()
    ]


def config(component: Any) -> dict[str, Any]:
    """The parameters of a component as plain JSON values, defaults included.

    One that is set to None where its default is not is "none", as on the command line: null says that nothing was said.
    """
    fields = _fields(type(component))
    values = {name: _convert(getattr(component, name), hint) for name, (hint, _) in fields.items()}
    asked = {name: "none" for name, v in values.items() if v is None and fields[name][1].default is not None}
    return {name: [_plain(one) for one in v] if isinstance(v, tuple) else v for name, v in {**values, **asked}.items()}


def parts(component: Any) -> list[Any]:
    """The components among the parameters of one, each followed by its own."""
    own = [one for name in _fields(type(component)) for one in _tuple(getattr(component, name)) if hasattr(one, "kind")]
    return [part for one in own for part in (one, *parts(one))]


def whole(*components: Any) -> list[Any]:
    """Each component, followed by those among its parameters: all whose code, files and needs it has."""
    return [one for component in components for one in (component, *parts(component))]


def oracles(component: Any) -> list[str]:
    """What the parameters of a defense that are true ask to be told."""
    return [oracle for name, oracle in asked(type(component)) if getattr(component, name)]


def asked(cls: type) -> list[tuple[str, str]]:
    """The parameters of a defense that ask to be told something, each with what."""
    limits = [(name, _limits(field).oracle) for name, (_, field) in _fields(cls).items()]
    return [(name, oracle) for name, oracle in limits if oracle]


def unknown_types(cls: type) -> list[tuple[str, str]]:
    """The parameters of a component class whose type is none of ``TYPES``, each with what it is."""
    return [
        (name, hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing."))
        for name, (hint, _) in _fields(cls).items()
        if not all(map(_is_known, _options(hint)))
    ]


def _is_known(option: Any) -> bool:
    if get_origin(option) is tuple:
        inner = get_args(option)
        return len(inner) == 2 and inner[1] is Ellipsis and all(map(_is_known, _options(inner[0])))
    return option in (bool, int, float, str, type(None)) or get_origin(option) is Literal or hasattr(option, "kind")


def check(component: Any) -> None:
    """Raise BdbenchError unless every field has its declared type and lies in its range."""
    for name, (hint, field) in _fields(type(component)).items():
        value = getattr(component, name)
        if isinstance(value, ClassName) and _is_label(name, hint):
            continue
        if not _fits(value, hint) or not all(_limits(field).admits(v) for v in _numbers(value)):
            expected = _allowed(hint, field) or _type_name(hint)
            kind = f" ({type(value).__name__} of numpy)" if _of_numpy(value) else ""
            raise BdbenchError(f"{_title(component)}: {name}={_show(value)}{kind} is not allowed: expected {expected}")


def make(cls: type, kind: str, values: Mapping[str, Any], build: Callable[[str, Any], Any] | None = None) -> Any:
    """Build a component from raw parameter values; strings are read by the type of their field.

    build: makes a component of a kind and what describes it, for components that are made of others. Raises
    BdbenchError for a parameter that does not exist, does not parse or is out of range.
    """
    fields = _fields(cls)
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise unknown(f"parameter of {kind} '{cls.name}'", name, fields)  # type: ignore[attr-defined]
        hint, field = fields[name]
        if build is not None and (made_of := _made_of(hint)):
            listed = split(value, "+") if isinstance(value, str) else value
            if not isinstance(listed, list | tuple):
                title = f"{kind} '{cls.name}'"  # type: ignore[attr-defined]
                raise BdbenchError(f"{title}: {name}={value!r} is not allowed: expected a list of {made_of}s")
            parsed[name] = tuple(build(made_of, _opened(one)) for one in listed)
            continue
        try:
            parsed[name] = _parse(value, hint) if isinstance(value, str) else _convert(value, hint)
        except ValueError:
            if _is_label(name, hint):
                parsed[name] = ClassName(value)
                continue
            expected = " ".join(filter(None, [_type_name(hint), _limits(field).allowed()]))
            title = f"{kind} '{cls.name}'"  # type: ignore[attr-defined]
            raise BdbenchError(f"{title}: {name}={value} is not allowed: expected {expected}") from None
    return cls(**parsed)


def with_labels(component: Any, classes: Sequence[str]) -> Any:
    """A component with the labels of the classes that it names. Raises BdbenchError for one that is not there."""
    changes: dict[str, Any] = {}
    for name in _fields(type(component)):
        value = getattr(component, name)
        if isinstance(value, ClassName):
            forms = (str, _composed)  # as it is first
            labels = [i for form in forms for i, known in enumerate(classes) if form(known) == form(value)]
            if not labels:
                raise unknown(f"class of {_title(component)} in {name}", value, classes)
            changes[name] = labels[0]
        elif any(hasattr(one, "kind") for one in _tuple(value)):
            inner = tuple(with_labels(one, classes) for one in _tuple(value))
            if inner != _tuple(value):
                changes[name] = inner
    return dataclasses.replace(component, **changes) if changes else component


def _composed(text: str) -> str:
    """A name in one of the two forms that Unicode has for letters with accents: files and keyboards differ in it."""
    return unicodedata.normalize("NFC", text)


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,key=value`` into its name and its raw values.

    Brackets hold specs inside a value together, and quotes around a value all that is in it.

    Raises BdbenchError if a part has no ``=`` or a key comes twice.
    """
    name, _, rest = spec.partition(":")
    values: dict[str, str] = {}
    for part in filter(None, split(rest, ",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BdbenchError(
                f"cannot read {part!r} in {spec!r}: expected name:parameter=value,parameter=value, and quotes around a "
                "value with commas"
            )
        if key.strip() in values:
            raise BdbenchError(f"parameter {key.strip()!r} is given twice in {spec!r}: expected once")
        values[key.strip()] = _unquoted(value.strip())
    return name.strip(), values


def quoted(text: str) -> str:
    """A value as ``parse_spec`` reads it, in quotes where it would be read otherwise."""
    if not (set(text) & set(",[]") or text != text.strip() or text[:1] in ("'", '"')):
        return text
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def plain(value: Any) -> Any:
    """A number of numpy as Python's own; anything else as it is."""
    return value.item() if _of_numpy(value) and getattr(value, "ndim", None) == 0 else value


def split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are in no brackets or quotes; those that are not closed are none."""
    found, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and found[-1][-1:] in ("=", "+", "["):
            quote = character
        else:
            depth += (character == "[") - (character == "]")
        if character == separator and not depth and not quote:
            found.append("")
        else:
            found[-1] += character
    return text.split(separator) if depth or quote else found


def _unquoted(value: str) -> str:
    whole = len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1] and value[0] not in value[1:-1]
    return value[1:-1] if whole else value


def _of_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy"


def _is_label(name: str, hint: Any) -> bool:
    """Whether a parameter of an attack is a label, or drawn from the seed: a class's name then does as well."""
    options = _options(hint)
    return name in _LABELS and int in options and any("seed" in get_args(o) for o in options)


def _opened(spec: Any) -> Any:
    return spec[1:-1] if isinstance(spec, str) and spec[:1] == "[" and spec[-1:] == "]" else spec


def _made_of(hint: Any) -> str | None:
    """The kind of the components that a field takes a tuple of, if it does."""
    return getattr(get_args(hint)[0], "kind", None) if get_origin(hint) is tuple else None


def _plain(value: Any) -> Any:
    return value.config() if hasattr(value, "config") else value


def _title(component: Any) -> str:
    return f"{getattr(component, 'kind', 'component')} '{getattr(component, 'name', type(component).__name__)}'"


def _show(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _numbers(value: Any) -> list[float]:
    return [v for v in _tuple(value) if isinstance(v, int | float) and not isinstance(v, bool)]


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type_name(hint: Any) -> str:
    names = []
    for option in _options(hint):
        if option is type(None):
            names.append("none")
        elif get_origin(option) is Literal:
            names += [str(v) for v in get_args(option)]
        elif get_origin(option) is tuple:
            names.append("+".join([_type_name(get_args(option)[0])] * 2) + "+...")
        else:
            names.append(getattr(option, "kind", option.__name__))
    return "|".join(names)


def _allowed(hint: Any, field: dataclasses.Field[Any]) -> str:
    limits = _limits(field).allowed()
    if not limits and not any(get_origin(o) is Literal for o in _options(hint)):
        return ""
    return f"{_type_name(hint)} {limits}".strip()


def _fits(value: Any, hint: Any) -> bool:
    for option in _options(hint):
        if option is type(None):
            ok = value is None
        elif get_origin(option) is Literal:
            ok = value in get_args(option)
        elif get_origin(option) is tuple:
            ok = isinstance(value, tuple) and all(_fits(v, get_args(option)[0]) for v in value)
        elif option is float:
            ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        elif option is int:
            ok = isinstance(value, int) and not isinstance(value, bool)
        else:
            ok = isinstance(value, option)
        if ok:
            return True
    return False


def _convert(value: Any, hint: Any) -> Any:
    """A Python value as the field wants it: lists become tuples, ints become floats."""
    value = plain(value)
    if isinstance(value, list):
        return tuple(map(plain, value))
    if _fits(value, int) and float in _options(hint) and int not in _options(hint):
        return float(value)
    return value


def _parse(text: str, hint: Any) -> Any:
    # None first: to a str everything is a value.
    for option in sorted(_options(hint), key=lambda option: option is not type(None)):
        try:
            return _parse_one(text, option)
        except ValueError:
            continue
    raise ValueError(text)


def _parse_one(text: str, option: Any) -> Any:
    if option is type(None):
        if text.lower() == "none":
            return None
        raise ValueError(text)
    if option is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise ValueError(text)
    if get_origin(option) is Literal:
        for choice in get_args(option):
            if str(choice) == text:
                return choice
        raise ValueError(text)
    if get_origin(option) is tuple:
        return tuple(_parse(part, get_args(option)[0]) for part in text.split("+"))
    return option(text)
