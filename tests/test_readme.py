"""The README keeps its word."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

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


def _tables(text: str) -> list[dict[str, str]]:
    """The rows of every Markdown table in ``text``, by heading."""
    rows, heading = [], None
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            heading = None
        elif heading is None:
            heading = cells
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(heading, cells, strict=True)))
    return rows


@pytest.mark.parametrize("board", ["digits", "cifar10-5k"])
def test_the_results_are_those_of_the_leaderboards(board: str) -> None:
    part = README.split(f"leaderboards/{board}/README.md")[1]
    shown = _tables(part.split("\n**[")[0].split("\n## ")[0])
    rows = _tables((ROOT / "leaderboards" / board / "README.md").read_text())
    full = {(r["attack"], r["defense"]): r for r in rows if "defense" in r}
    assert {(r["attack"], r["defense"]) for r in shown} == set(full)
    for row in shown:
        assert {k: full[row["attack"], row["defense"]][k] for k in row} == row
