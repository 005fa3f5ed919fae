"""Which code a result was made by, for the keys of stage results: other code, another result."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bdbench.interfaces import Component


def code_of(*components: Component) -> dict[str, str]:
    """What the results of components depend on beside their parameters, for the keys of stage results:
    each class, the sources of its package and of bdbench, and the numerical libraries.
    """
    classes = {f"{type(c).__module__}.{type(c).__qualname__}": _sources(type(c).__module__) for c in components}
    return {"numpy": np.__version__, "torch": torch.__version__, "bdbench": _sources("bdbench"), **classes}


@functools.cache
def _sources(module: str) -> str:
    """A hash of the Python files of the module's top-level package, or of its own file."""
    path = _file(module.partition(".")[0])
    if path is None:
        return _session()
    return _hash(sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path])


def code_behind(function: Callable[..., Any]) -> str:
    """A hash of the sources a function runs, its package's alone: of its module and all that imports from there.

    What only types are imported for does not count, nor does a package's ``__init__`` unless a name is taken from it.
    """
    while isinstance(function, functools.partial):
        function = function.func
    return _reached(function.__module__)


@functools.cache
def _reached(module: str) -> str:
    reached, ahead = {module: _file(module)}, [module]
    while ahead:
        for name in _imported(ahead.pop()) - reached.keys():
            reached[name] = _file(name)
            ahead.append(name)
    files = [path for _, path in sorted(reached.items()) if path is not None]
    return _hash(files) if len(files) == len(reached) else _session()


def _imported(module: str) -> set[str]:
    """The modules of the same top-level package that the source of a module imports, wherever in it."""
    path = _file(module)
    if path is None:
        return set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    top = module.partition(".")[0]
    found: set[str] = set()
    for node in _run(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.partition(".")[0] == top)
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            # Others are left out first: to find a module inside a package, Python imports that package.
            if origin.partition(".")[0] == top:
                inner = {f"{origin}.{alias.name}" for alias in node.names}
                modules = set(filter(_is_module, inner))
                found.update(modules if modules == inner else {origin, *modules})
    return found


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _run(child)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _file(module: str) -> Path | None:
    """Where a module's source is, imported or not; None for a session or a notebook."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    else:
        spec = importlib.util.find_spec(module)
        file = spec.origin if spec else None
    return Path(file) if file else None


def _session() -> str:
    # Nothing says when code of a session or a notebook changes, so it is new in every process.
    return f"session {os.getpid()} {time.time_ns()}"


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for source in files:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]
