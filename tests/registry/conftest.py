"""Plugins of the tests' own: one good detector, and a way to load any functions as a plugin."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pluggy
import pytest

from bdbench import Detector, Tools, TrainingView, hookimpl
from bdbench.registry import hookspecs
from bdbench.registry.plugins import Plugins


@dataclass(frozen=True, kw_only=True)
class Flat(Detector):
    name = "flat"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.zeros(len(view.labels))


class _Distribution(importlib.metadata.Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    def read_text(self, filename: str) -> str:
        return f"Name: {self._name}\nVersion: 1.0\n"

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


Load = Callable[..., None]


@pytest.fixture
def plugins() -> Plugins:
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    return Plugins(manager)


@pytest.fixture
def load(plugins: Plugins) -> Iterator[Load]:
    """Load a module made of the given functions as a plugin of the distribution of that name."""
    made: list[str] = []

    def load_(distribution: str, **functions: Any) -> None:
        name = f"made_{distribution}"
        module = types.ModuleType(name)
        vars(module).update(functions)
        sys.modules[name] = module
        made.append(name)
        entry = importlib.metadata.EntryPoint(distribution, name, hookspecs.GROUP)
        vars(entry)["dist"] = _Distribution(distribution)
        plugins.load(entry)

    yield load_
    for name in made:
        del sys.modules[name]


@hookimpl
def bdbench_register_defenses() -> list[type]:
    return [Flat]
