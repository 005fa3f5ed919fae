"""The examples of docs/scan.md for pipelines: they parse, and what they run runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bdbench.cli import cli
from tests.scanning.conftest import MODEL, write_folder

PAGE = Path(__file__).parents[2] / "docs" / "scan.md"


def example(name: str) -> Any:
    """The indented YAML after its mark."""
    after = PAGE.read_text().split(f"<!-- example: {name} -->")[1]
    block = re.match(r"\n+((?:    .*\n|\n)+)", after)
    assert block is not None
    return yaml.safe_load(re.sub(r"^    ", "", block[1], flags=re.M))


def commands() -> list[str]:
    steps = example("workflow")["jobs"]["scan"]["steps"]
    (hook,) = example("pre-commit")["repos"][0]["hooks"]
    return [*(s["run"] for s in steps if s.get("run", "").startswith("bdbench")), hook["entry"]]


def test_the_examples_are_what_they_are_for() -> None:
    workflow = example("workflow")
    # YAML takes the key "on" for a truth.
    assert workflow[True] == {"pull_request": {"paths": ["photos/**"]}}
    upload = workflow["jobs"]["scan"]["steps"][-1]
    assert upload["if"] == "always()" and upload["with"]["path"] == "scan/report.html"
    (hook,) = example("pre-commit")["repos"][0]["hooks"]
    assert {"id", "name", "entry", "language", "files"} <= set(hook) and hook["pass_filenames"] is False
    assert re.match(hook["files"], "photos/cat/1.jpg")


@pytest.mark.parametrize("command", commands())
def test_the_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    assert program == "bdbench"
    arguments[arguments.index("--seconds") + 1] = "0.1"
    result = CliRunner().invoke(cli, [*arguments, "--model", MODEL, "--device", "cpu"])
    assert result.exit_code in (0, 1, 3), result.output
    report = arguments[arguments.index("--report") + 1]
    assert (tmp_path / report / "report.html").is_file()
