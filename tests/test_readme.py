"""The README keeps its word."""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path

import pytest

from bdbench.registry.plugins import installed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    "pip install -e . && bdbench run --attack blend --defense datamodel",
    "pip install -e '.[test]' && pytest",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_ci_runs_exactly_the_readmes_two_commands(command: str) -> None:
    for text in (README, (ROOT / ".ci" / "run").read_text()):
        assert command in [line.strip() for line in text.splitlines()]


def test_the_python_example_is_short() -> None:
    (example,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "bdbench.run(" in b)
    assert len(example.strip().splitlines()) <= 5


def test_the_plugin_example_is_a_component() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    example = next(b for b in blocks if "hookimpl" in b)
    module = types.ModuleType("readme_plugin")
    sys.modules["readme_plugin"] = module
    try:
        exec(compile(example, "README.md", "exec"), vars(module))
        (component,) = vars(module)["bdbench_register_attacks"]()
        assert component().config()["name"] == component.name
    finally:
        del sys.modules["readme_plugin"]


def test_the_results_are_those_of_the_leaderboards() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_results.py"))
    for file in made["PAGES"]:
        assert made["page"](file) == file.read_text(), "run python docs/make_results.py"
    assert README.count("<!-- digits ") == 1


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("kind", ["attack", "defense", "dataset", "model"])
def test_everything_that_is_there_is_named(kind: str) -> None:
    """In the table of kinds. Another project's records have a sentence in place of a name."""
    (table,) = re.findall(r"^\| kind \|.*?\n\n", README, re.S | re.M)
    named = set(re.findall(r"[a-z0-9][a-z0-9-]*", table))
    ours = {r.name for r in installed().registered(kind) if r.plugin.distribution == "bdbench"}
    assert ours - {"backdoorbench", "backdoorbench-victim"} <= named
