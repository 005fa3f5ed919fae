"""The examples of README and docs: all are parsed, and all that are not marked otherwise are run.

A fenced block is marked by a line ``<!-- not run: why -->`` above it. The bash blocks of a page are one walk: they run
in their order, in one folder, in a fresh virtual environment.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest

from bdbench import Role
from bdbench.cli import cli
from bdbench.components.params import parse_spec
from bdbench.grids.grid import read as read_grid
from bdbench.registry.plugins import installed
from tests.environments import Environment

ROOT = Path(__file__).parent.parent
# cli.md is made from the program, and holds usage, not examples.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "cli.md"),
]
_FENCE = re.compile(r"(?P<mark><!-- not run: .+? -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```\n", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block, whether it is to be run, and the text after it."""

    language: str
    code: str
    runs: bool
    after: str


@pytest.fixture(autouse=True)
def _commands_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program adds them when it starts."""
    monkeypatch.setattr(cli, "commands", dict(cli.commands))
    installed().call("bdbench_add_commands", cli=cli)


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m["language"], m["code"], not m["mark"], text[m.end() :]) for m in _FENCE.finditer(text)]


def bash(page: Path) -> list[str]:
    return [b.code for b in blocks(page) if b.language == "bash" and b.runs]


def commands(page: Path) -> Iterator[str]:
    """Every ``bdbench ...`` of a page: in fenced blocks, in indented ones, and between backticks in the text."""
    text = page.read_text()
    fenced = "".join(b.code for b in blocks(page))
    outside = _FENCE.sub("", text)
    indented = "\n".join(line for line in outside.splitlines() if line.startswith("    "))
    whole = re.sub(r"\\\n\s*", "", f"{fenced}\n{indented}")
    for line in whole.splitlines():
        for part in re.split(r"&&|\|\||;", line.split(" # ")[0]):
            if part.strip().startswith("bdbench "):
                yield part.strip()
    for inline in re.findall(r"`(bdbench [^`]+)`", outside):
        yield " ".join(inline.replace("...", "").split())


def parse(command: str) -> tuple[click.Command, dict[str, Any]]:
    """The command and its values. Raises click.UsageError for what the program would not take."""
    found: click.Command = cli
    words = shlex.split(command)[1:]
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        _, inner, words = found.resolve_command(click.Context(found), words)
        assert inner is not None
        found = inner
    if words and words[0] in getattr(found, "further", {}):
        found = found.further[words.pop(0)]  # type: ignore[attr-defined]
    if not words or words == ["--help"]:
        return found, {}
    return found, found.make_context(found.name, words).params


ALL = [pytest.param(c, id=f"{page.name}: {c}") for page in PAGES for c in dict.fromkeys(commands(page))]
# What the pages themselves make: by the scaffold, or as a class in an example.
MADE = {
    n for page in PAGES for n in re.findall(r'(?:bdbench plugin new |^    name = ")([\w-]+)', page.read_text(), re.M)
}


@pytest.mark.parametrize("command", ALL)
def test_every_command_line_is_one_that_the_program_takes(command: str) -> None:
    _, values = parse(command)
    for kind in ("dataset", "model"):
        if values.get(kind) and parse_spec(values[kind])[0] not in MADE:
            installed().component(kind, values[kind])
    if not MADE & {parse_spec(spec)[0] for spec in values.get("attack") or ()}:
        installed().component("attack", values.get("attack") or "blend")
    for spec in values.get("defenses", ()):
        installed().component("defense", spec)


@pytest.mark.parametrize(
    "command",
    [
        "bdbench rum",
        "bdbench run --atack blend",
        "bdbench list things",
        "bdbench show --json",
        "bdbench plugin new my-trigger x",
    ],
)
def test_a_command_line_that_the_program_does_not_take_is_found(command: str) -> None:
    with pytest.raises(click.UsageError):
        parse(command)


def test_the_commands_are_found() -> None:
    found = {" ".join(c.split()[:2]) for page in PAGES for c in commands(page)}
    assert {"bdbench run", "bdbench list", "bdbench show", "bdbench leaderboard", "bdbench plugin"} <= found


def test_every_example_is_of_a_kind_that_is_tested() -> None:
    for page in PAGES:
        assert {b.language for b in blocks(page)} <= {"", "bash", "python"}, page


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize("page", [p for p in PAGES if bash(p)], ids=lambda p: p.name)
def test_the_bash_examples_run(page: Path, fresh: Environment, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "leaderboards", tmp_path / "leaderboards")
    done = fresh.shell("\n".join(bash(page)), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if page.name == "plugins.md":
        walked = tmp_path / "my-trigger"
        assert len(list(walked.glob("board/records/*.json"))) == 2
        assert "my-trigger rate=0.03" in (walked / "board" / "README.md").read_text()
        assert "my-trigger, my-trigger 0.1.0" in done.stdout  # listed, with the distribution it came from


PYTHON = [
    pytest.param(b, id=f"{page.name}-{i}")
    for page in PAGES
    for i, b in enumerate(blocks(page))
    if b.language == "python"
]


@pytest.mark.parametrize("block", PYTHON)
def test_the_python_examples_run(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile(block.code, "example", "exec")
    if not block.runs:
        return
    module = types.ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, "docs_example", module)
    monkeypatch.chdir(tmp_path)
    exec(code, vars(module))
    if "bdbench.run(" in block.code:
        assert list(tmp_path.glob("runs/*/record.json"))
    if block.after.startswith("\nprints\n\n"):
        assert capsys.readouterr().out.strip() == block.after.split("```")[1].strip()


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "docs" / "cli.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert Path(os.path.normpath(page.parent / target)).exists(), f"{page.name}: {target}"


def test_every_table_has_a_head() -> None:
    """Rows after an empty line are no table without one, and are shown as bare text."""
    for page in [*PAGES, ROOT / "docs" / "cli.md"]:
        blocks = re.findall(r"(?:^|\n\n)(\|.*?)(?=\n\n|\Z)", page.read_text(), re.S)
        for block in blocks:
            assert re.fullmatch(r"\|?[ :|-]+", [*block.splitlines(), ""][1]), f"{page.name}: {block[:80]}"


def test_the_command_reference_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))
    assert (ROOT / "docs" / "cli.md").read_text() == made["page"](), "run python docs/make_cli.py"


def points(made: dict[str, Any], grid: Path) -> set[tuple[Any, ...]]:
    """Where a script that draws curves puts the cells of a grid, and their seeds."""
    return {
        (*made["point"](job.attack.config(), defense.config()).values(), job.seed)
        for job in read_grid(grid).jobs()
        for defense in job.defenses
    }


@pytest.mark.parametrize("grid", sorted((ROOT / "docs" / "curves").glob("*/grid.toml")), ids=lambda p: p.parent.name)
def test_the_curves_hold_every_cell_of_their_grid(grid: Path) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_curves.py"))
    table = pd.read_csv(grid.parent / "table.csv")
    asked = points(made, grid)
    assert set(table[["attack", "line", "models", "seed"]].itertuples(index=False, name=None)) == asked
    assert len(table) == len(asked) and table["auroc"].between(0, 1).all()
    titles = [axis.get_title() for axis in made["figure"](table).axes]
    assert [t for t in titles if t] == sorted(set(table["attack"]))


def test_the_curves_of_repairs_hold_every_cell_of_their_grid() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_repair.py"))
    table = pd.read_csv(ROOT / "docs" / "repair" / "table.csv")
    asked = points(made, ROOT / "docs" / "repair" / "grid.toml")
    assert set(table[["attack", "defense", "clean", "seed"]].itertuples(index=False, name=None)) == asked
    assert len(table) == len(asked) and table[["asr", "accuracy"]].stack().between(0, 1).all()
    above, below = (made["figure"](table).axes[at] for at in (0, 2))
    for axis, column in ((above, "asr"), (below, "accuracy")):
        drawn = {line.get_label(): line.get_ydata()[-1] for line in axis.get_lines()}
        own = table[table["attack"] == sorted(set(table["attack"]))[0]]
        for name, rows in own.groupby("defense"):
            most = rows[rows["clean"] == rows["clean"].max()]
            assert drawn[name] == pytest.approx(most[column].mean())


def test_the_table_of_spreads_is_of_its_file() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_spread.py"))
    assert made["page"]() == (ROOT / "docs" / "numbers.md").read_text(), "run python docs/make_spread.py"
    found = pd.read_csv(ROOT / "docs" / "spread.csv").set_index(["attack", "detector"])
    # By hand: five values, of which the third is the middle.
    values = sorted(found.loc[("blend:rate=0.05", "scan")].filter(like="auroc_"))
    assert f"{values[0]:.3f} - **{values[2]:.3f}** - {values[4]:.3f}" in made["table"]()


def test_the_results_of_defenses_are_of_the_records() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_references.py"))
    page = (ROOT / "docs" / "defenses.md").read_text()
    assert made["page"]() == page, "run python docs/make_references.py"
    rows = [line.split("|")[1].strip() for line in page.splitlines() if re.match(r"\| `", line)]
    told = {re.sub(r"`(\S+)`.*", r"\1", row) for row in rows}
    # Every defense of the boards has its row, and every row is of one, but for the toolbox's own.
    assert told == {defense for _, defense in made["results"]()} | {"art"}


def test_results_are_told_as_the_page_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_references.py"))
    ranked = {"control": False, "detection": {"auroc": 0.9712}, "decision": {"tpr": 0.985, "fpr": 0.0004}}
    assert made["detected"](ranked) == ".971 (98.5, 0)"
    assert made["detected"]({**ranked, "decision": None}) == ".971"
    assert made["detected"]({**ranked, "control": True}) == "0 %"
    models = {"before": {"attack_success_rate": 1.0, "clean_accuracy": 0.98}, "after": None, "control": False}
    assert made["left"](models) == "100, 98" and made["left"]({**models, "control": True}) == "98"
    inputs = {"control": False, "inputs": {"auroc": 1.0, "fpr": 0.055}}
    assert made["refused"](inputs) == "1.000" and made["refused"]({**inputs, "control": True}) == "5.5 %"
    verdict = {"control": False, "verdict": {"flagged": True, "hit": False}}
    assert made["suspected"](verdict) == "flagged, target wrong"
    table = "| defense | paper | BadNets |\n|---|---|---|\n| `a:b=true` (told) | X 2020 | old |\n| none | | old |\n"
    filled = made["filled"](table, {("BadNets", "a:b=true"): "1, 2", ("paper", "a:b=true"): "no"})
    assert filled == table.replace("X 2020 | old", "X 2020 | 1, 2")


def test_the_table_of_machines_is_of_the_records() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_machines.py"))
    assert made["page"]() == (ROOT / "docs" / "numbers.md").read_text(), "run python docs/make_machines.py"
    cards = [f"NVIDIA {name}, bfloat16, torch 2.11" for name in ("H100", "H200")]
    found = [(json.loads(key)[0], by) for key, by in made["victims"]().items() if by.keys() >= set(cards)]
    both = [[by[card] for card in cards] for dataset, by in found if dataset == "imagefolder"]
    assert len(both) >= 20 and all(one == other for one, other in both)


def test_the_table_of_strengths_is_of_its_file() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_assumption.py"))
    assert made["page"]() == (ROOT / "docs" / "results.md").read_text(), "run python docs/make_assumption.py"
    found = pd.read_csv(ROOT / "docs" / "assumption.csv")
    assert not found["poisoned"].duplicated().any() and set(found["poisoned"]) <= set(made["board_records"]())
    # By hand: intervals that do not overlap.
    held = found["trigger"] - found["trigger_half"] > found["natural"] + found["natural_half"]
    assert (held == (found["assumption"] == "held")).mean() > 0.9  # the file's numbers are rounded


def test_the_surrogates_attack_success_is_of_poisons_that_they_did_not_hold() -> None:
    learnt = runpy.run_path(str(ROOT / "docs" / "make_assumption.py"))["learnt"]
    roles = np.array([Role.POISON, Role.CLEAN, Role.POISON, Role.COVER])
    masks = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)
    margins = np.array([[9, -9, 1, 9], [2, 9, -1, 9], [-3, 9, 9, 9]], np.float32)
    # The first poison is not held by networks 1 and 2, the third example by 0 and 1: margins 2, -3, 1, -1.
    assert learnt(roles, masks, margins) == 0.5


def test_every_room_of_the_core_is_described() -> None:
    told = set(re.findall(r"`([a-z_]+(?:\.py|/))`", (ROOT / "CONTRIBUTING.md").read_text()))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "bdbench").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - told == {"__init__.py", "__main__.py", "pytest_plugin.py"}
