"""Which code a result was made by, for the keys of stage results: other code, another result."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.machinery import all_suffixes
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from bdbench.components import params
from bdbench.components.interfaces import Component

# The distributions whose version may change a result. Not all are needed by all, nor installed where they are not.
LIBRARIES = ("numpy", "scipy", "scikit-learn", "numba")
# Packages whose sources need not be read: the keys hold their versions, or all of bdbench, anyway.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Methods of model detectors that say or bound how long their work takes, and make no result.
_OF_TIME = ("pace", "within")
_BY_VERSION = {"bdbench", "torch", "numpy", "scipy", "sklearn", "numba", *sys.stdlib_module_names}


def code_of(*components: Component) -> dict[str, str]:
    """What the results of components depend on beside their parameters, for the keys of stage results:
    each class, the sources of its package and of bdbench, of the packages of its bases, and the numerical libraries.
    """
    found = {**library_versions(), "bdbench": _sources("bdbench") or _session()}
    for component in params.whole(*components):
        cls = type(component)
        found[f"{cls.__module__}.{cls.__qualname__}"] = _sources(cls.__module__) or _session()
        known = {_top(cls.__module__), *_BY_VERSION}
        for base in sorted({base.__module__ for base in cls.__mro__ if _top(base.__module__) not in known}):
            found[base] = _sources(base) or _session()
    return found


@functools.cache
def library_versions() -> dict[str, str]:
    """The version of torch, with its build, and of each of LIBRARIES that is installed."""
    import torch

    found = {"torch": str(torch.__version__)}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def _sources(module: str) -> str | None:
    """A hash of the Python files of the module's top-level package, or of its own file; None if there is none."""
    top = _top(module)
    if places := getattr(sys.modules.get(top), "__path__", None):
        return _hash(sorted(path for place in places for path in Path(place).rglob("*.py")))
    path = _file(top)
    return None if path is None else _hash([path])


def code_behind(function: Callable[..., Any]) -> str:
    """A hash of the sources a function runs, of its package alone: of its module and all that imports from there.

    A method also runs its object's class and that one's bases, a decorated function what it wraps, and a partial the
    functions and objects it holds, as far as they are of the same packages, or of any if the function itself is
    bdbench's or a library's. What only types are imported for does not count, nor does a package's ``__init__`` unless
    a name is taken from it.
    """
    held: list[Any] = []
    while isinstance(function, functools.partial):
        held += [function.args, function.keywords]
        function = function.func
    own = {module for module in _modules(function) if _top(module) not in _BY_VERSION}
    packages = {_top(module) for module in own}
    own |= {m for m in _modules(held) if (_top(m) in packages if packages else _top(m) not in _BY_VERSION)}
    return _reached(tuple(sorted(own))) or _session()


def _top(module: str) -> str:
    return module.partition(".")[0]


def _modules(part: Any) -> Iterator[str]:
    """Where the code of a function begins, or of an object, whose methods may be called, or of all in a container."""
    if isinstance(part, functools.partial):
        yield from _modules([part.func, part.args, part.keywords])
    elif isinstance(part, Mapping):
        yield from _modules(list(part.values()))
    elif isinstance(part, list | tuple | set | frozenset):
        for one in part:
            yield from _modules(one)
    elif isinstance(part, MethodType):
        yield from _modules([part.__func__, part.__self__])
    elif hasattr(part, "__wrapped__"):
        yield _named(part)
        yield from _modules(part.__wrapped__)
    elif isinstance(part, FunctionType):
        yield _named(part)
    else:
        yield from map(_named, (part if isinstance(part, type) else type(part)).__mro__)


def _named(part: Any) -> str:
    """The module that the code of a function or class is in, by the name it is imported by."""
    # A decorated function says that it is of the module of what it wraps.
    module = str(getattr(part, "__globals__", {}).get("__name__", part.__module__))
    spec = getattr(sys.modules.get(module), "__spec__", None) if module == "__main__" else None
    return spec.name if spec else module


def own_code(component: type[Component]) -> str:
    """A hash of what a component's own code says: its module and those of its bases, and what these import from their
    own packages.

    By this records know what they were made by, across machines and for years: so it is of the syntax alone, without
    comments, docstrings and layout. What only tells how long work takes (``ModelDetector.pace`` and ``within``) is no
    part of it, nor is bdbench's own code, for which the version of the definitions stands. A component that is in no
    file has none: "".
    """
    bases = {base.__module__ for base in component.__mro__ if _top(base.__module__) not in _BY_VERSION}
    timed = (base.__name__ for base in component.__mro__ if getattr(base, "stage", None) == "model")
    return _said_by(tuple(sorted(bases)), frozenset(timed))


def own_code_of(component: Component) -> str:
    """``own_code`` of a component and of those that it is made of, if it is made of others."""
    return joined([own_code(type(part)) for part in params.whole(component)])


def joined(codes: Sequence[str]) -> str:
    """One hash of several; of one, itself."""
    return codes[0] if len(codes) == 1 else hashlib.sha256("\0".join(codes).encode()).hexdigest()[:16]


@functools.cache
def _said_by(modules: tuple[str, ...], detectors: frozenset[str]) -> str:
    files = _all_reached(modules)
    if files is None:
        return ""
    digest = hashlib.sha256()
    for path in files:
        text = (
            _said(_results(ast.parse(path.read_bytes()), detectors)).encode()
            if path.suffix == ".py"
            else path.read_bytes()
        )
        digest.update(path.name.encode() + text)
    return digest.hexdigest()[:16]


def _results(tree: ast.Module, detectors: Collection[str]) -> ast.Module:
    """A module without the methods by which classes of these names tell or bound time, and what only these need."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    timed = [one for one in classes if one.name in detectors]
    found = gone = _taken_out(timed, _OF_TIME)
    while found:
        orphans = _read(gone) - _read([tree])
        found = _taken_out([tree, *classes], [name for name in orphans if name.startswith("_")]) + _unloaded(
            tree, orphans
        )
        gone += found
    return tree


def _taken_out(holders: Sequence[ast.Module | ast.ClassDef], names: Collection[str]) -> list[ast.AST]:
    """The functions and values of these names that modules and classes define, removed from them."""
    taken: list[ast.AST] = []
    for holder in holders:
        for node in list(holder.body):
            defined = [node.name] if isinstance(node, ast.FunctionDef) else _assigned(node)
            if defined and all(name in names for name in defined):
                holder.body.remove(node)
                taken.append(node)
    return taken


def _unloaded(tree: ast.Module, names: Collection[str]) -> list[ast.AST]:
    """What a module imports by these names, removed from it."""
    taken: list[ast.AST] = []
    for node in list(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            dropped = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in names]
            node.names = [alias for alias in node.names if alias not in dropped]
            taken += dropped
            if not node.names:
                tree.body.remove(node)
    return taken


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def _read(nodes: Sequence[ast.AST]) -> set[str]:
    """The names that code reads, those of attributes among them."""
    parts = [part for node in nodes for part in ast.walk(node)]
    read = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    return read | {part.attr for part in parts if isinstance(part, ast.Attribute)}


def _said(node: Any) -> str:
    """A syntax tree as text, the same under every version of Python: fields that are empty do not count."""
    if isinstance(node, list):
        return f"[{','.join(map(_said, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [], 0) and name != "ctx"}
    if isinstance(node, ast.Constant):
        fields = {"value": node.value}
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
        fields["body"] = fields["body"][1:]
    return f"{type(node).__name__}({','.join(f'{k}={_said(v)}' for k, v in sorted(fields.items()))})"


@functools.cache
def _reached(starts: tuple[str, ...]) -> str | None:
    files = _all_reached(starts)
    return None if files is None else _hash(files)


def _all_reached(starts: tuple[str, ...]) -> list[Path] | None:
    """The files of modules and of all that they import from their own packages; None if one of them has no file."""
    reached, ahead = {name: _file(name) for name in starts}, list(starts)
    while ahead:
        for name in _imported(ahead.pop()) - reached.keys():
            reached[name] = _file(name)
            ahead.append(name)
    if any(reached[name] is None for name in starts):
        return None
    return [path for _, path in sorted(reached.items()) if path is not None]


def _imported(module: str) -> set[str]:
    """The modules of the same top-level package that the source of a module imports, wherever in it."""
    path = _file(module)
    if path is None or path.suffix != ".py":
        return set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    top = module.partition(".")[0]
    found: set[str] = set()
    for node in _run(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.partition(".")[0] == top)
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            if origin.partition(".")[0] == top:
                inner = {f"{origin}.{alias.name}" for alias in node.names}
                modules = {name for name in inner if _file(name)}
                found.update(modules if modules == inner else {origin, *modules})
    return found


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _run(other)
            continue
        yield child
        yield from _run(child)


def _file(module: str) -> Path | None:
    """Where the source of a module is, or its library if it is compiled; None if there is no file, as in a session.

    Inside a package it is looked for, not asked for: to find a module, Python would import the packages around it.
    """
    top, *inner = module.split(".")
    places = getattr(sys.modules.get(top), "__path__", None)
    if not inner or places is None:
        if module in sys.modules:
            file = getattr(sys.modules[module], "__file__", None)
        else:
            spec = importlib.util.find_spec(top)
            file = spec.origin if spec and not inner else None
        return Path(file) if file else None
    for place in places:
        path = Path(place, *inner)
        for file in (path / "__init__.py", *(path.with_name(path.name + suffix) for suffix in all_suffixes())):
            if file.is_file():
                return file
    return None


def _session() -> str:
    # Nothing says when code of a session or a notebook changes, so it is new every time that it is asked for.
    return f"session {os.getpid()} {time.time_ns()}"


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for source in files:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]
