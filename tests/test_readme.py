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


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    example = next(b for b in blocks if "bdbench.run(" in b)
    assert len(example.strip().splitlines()) <= 5
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert list(tmp_path.glob("runs/*/record.json"))


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


def test_every_row_of_results_is_in_its_leaderboard() -> None:
    boards = "".join(p.read_text() for p in (ROOT / "leaderboards").glob("*/README.md"))
    known = {re.sub(r"\s+", " ", line) for line in boards.splitlines()}
    rows = [
        re.sub(r"\s+", " ", line) for line in README.splitlines() if re.match(r"\| (badnets|blend|none|sig)\b", line)
    ]
    assert rows
    assert [r for r in rows if r not in known] == []


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
