"""Records that other code, other files or other data made are stale: not counted, and made again."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from bdbench import leaderboard
from bdbench.cli import cli
from bdbench.components import configs, sources
from bdbench.grids import grid
from bdbench.grids.board import Board
from bdbench.leaderboard.coverage import made_by_other_code
from bdbench.registry.plugins import installed
from bdbench.storage import record
from tests.conftest import TINY
from tests.grids.test_grid import TOML, made, run

ONE = TOML.replace('"random", "low-loss"', '"random"').replace('"none", ', "").replace("[0.04, 0.06]", "0.04")


def other_code(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """Let a component have other code than what there was."""
    component, code = type(installed().component(kind, name)), sources.own_code
    monkeypatch.setattr(sources, "own_code", lambda c: "other" if c is component else code(c))


def test_a_list_in_attacks_is_a_cascade_which_is_stale_when_one_of_its_attackers_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '["blend:rate=0.04", {name = "badnets", rate = [0.04, 0.06], target = 1}]'
    file = made(tmp_path / "board", ONE.replace('{ name = "badnets", rate = 0.04, size = 2 }', entry))
    asked = grid.read(file)
    assert [[part.rate for part in attack.attacks] for attack in asked.attacks] == [[0.04, 0.04], [0.04, 0.06]]  # type: ignore[attr-defined]
    spec = configs.spec(asked.attacks[0].config())
    assert asked.only([f"attack={spec}"]).attacks == asked.attacks[:1]
    assert run(file, "--only", f"attack={spec}", "--seeds", "0").exit_code == 0
    board, (job, *_) = Board.read(file.parent), asked.jobs()
    assert board.state(job, job.defenses[0]) == "recorded" and made_by_other_code(board) == []
    other_code(monkeypatch, "attack", "badnets")
    assert board.state(job, job.defenses[0]) == "stale"
    (line,) = made_by_other_code(board)
    assert line.endswith("seeds 0 were made by other code of the attack than today's")
    leaderboard.build(file.parent)
    (row, *_) = pd.read_csv(file.parent / "table.csv").itertuples()
    assert row.attack == "cascade"


@pytest.mark.parametrize(("kind", "name"), [("defense", "random"), ("attack", "badnets"), ("model", "convnet")])
def test_what_other_code_made_is_stale_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    file = made(tmp_path / "board", ONE)
    assert run(file).exit_code == 0
    records = tmp_path / "board" / "records"
    before = {path.name for path in records.iterdir()}
    # Other records of the same names, which are of another cell or a stranger's, are left alone.
    data = json.loads(next(records.glob("*-s0-*")).read_text())
    data["config"]["attack"]["rate"], data["id"] = 0.07, f"{data['id'][:-8]}00000000"
    (records / f"{data['id']}.json").write_text(record.text(data))
    other_code(monkeypatch, kind, name)
    planned = run(file, "--dry-run")
    lines = planned.stdout.splitlines()
    (heading,) = (line for line in lines if "defenses" in line)
    (row,) = (line for line in lines if "random" in line)
    assert [name.strip() for name in heading.split("┃")[1:-1]] == ["attack", "defenses", "stale"]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["random", "0-1"]
    assert (
        "0 cells are recorded, 2 are to run" in planned.stdout
        and "stale: of other code, files or data" in planned.stdout
    )
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(tmp_path / "board")
    assert {r["config"]["code"][kind] == "other" for r in board.records.values() if r["seed"] == 0} == {True, False}
    assert len(board.records) == 3 and f"{data['id']}.json" in board.records
    assert len(before & board.records.keys()) == 1
    assert "1 cells are recorded, 1 are to run" in run(file, "--dry-run").stdout


def test_a_cell_is_stale_when_a_file_that_it_read_holds_something_else(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("L", (8, 8), 200).save(picture)
    entry = f'{{ name = "blend", rate = 0.04, pattern = "{picture}" }}'
    file = made(tmp_path / "board", ONE.replace('{ name = "badnets", rate = 0.04, size = 2 }', entry))
    assert run(file, "--seeds", "0").exit_code == 0
    (job,) = grid.read(file).jobs([0])
    (defense,) = job.defenses
    assert Board.read(file.parent).state(job, defense) == "recorded"
    picture.rename(tmp_path / "elsewhere.png")
    assert Board.read(file.parent).state(job, defense) == "recorded"
    Image.new("L", (8, 8), 100).save(picture)
    assert Board.read(file.parent).state(job, defense) == "stale"
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(file.parent)
    assert board.state(job, defense) == "recorded" and len(board.records) == 1


def test_a_cell_is_stale_when_its_data_are_others(tmp_path: Path) -> None:
    """The same grid below two data roots, or after a picture was replaced: two rows, and no board calls both one."""
    root = tmp_path / "root"
    for part, count in (("train", 40), ("test", 10)):
        for label, grey in (("dark", 60), ("light", 180)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), grey + i).save(folder / f"{i}.png")
    text = ONE.replace(TINY["dataset"], "imagefolder").replace("0.04", "0.1")
    file, there = made(tmp_path / "board", text), ("--data-root", str(root))
    assert run(file, "--seeds", "0", *there).exit_code == 0
    (old,) = Board.read(file.parent).records.values()
    assert "1 cells are recorded, 1 are to run" in run(file, *there, "--dry-run").stdout
    # In the training part files count by name and size, in the test part by their pixels.
    Image.new("L", (8, 8), 7).save(root / "test" / "dark" / "3.png")
    planned = run(file, *there, "--dry-run")
    assert "0 cells are recorded, 2 are to run" in planned.stdout
    assert "files or data than today's, or without a floor, and run again" in planned.stdout
    # Where the data are not, nothing can be told of them.
    assert "1 cells are recorded, 1 are to run" in run(file, "--dry-run").stdout
    assert run(file, "--seeds", "0", *there).exit_code == 0
    (new,) = Board.read(file.parent).records.values()
    assert new["config"]["data"]["source"] != old["config"]["data"]["source"]
    assert "1 cells are recorded, 1 are to run" in run(file, *there, "--dry-run").stdout


def test_a_record_without_the_floor_that_a_grid_asks_for_is_made_again(tmp_path: Path) -> None:
    file = made(tmp_path / "board", ONE.replace("attacks = [", 'attacks = ["none", '))
    assert run(file, "--seeds", "0").exit_code == 0
    asked = grid.read(made(tmp_path / "board", f"{file.read_text()}floor = true\n"))
    jobs = [job for job in asked.jobs() if job.seed == 0]
    board = Board.read(file.parent)
    # Nothing is tried with a trigger where there is no attack.
    assert [(job.attack.name, board.state(job, *job.defenses)) for job in jobs] == [
        ("none", "recorded"), ("badnets", "stale")
    ]  # fmt: skip
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(file.parent)
    assert len(board.records) == 2 and {board.state(job, *job.defenses) for job in jobs} == {"recorded"}


def test_a_record_takes_the_place_of_one_that_another_device_made(tmp_path: Path) -> None:
    """Its id is another one, and two records of one cell and seed are in no table."""
    file = made(tmp_path / "board", ONE)
    assert run(file, "--seeds", "0").exit_code == 0
    board = Board.read(file.parent)
    (data,) = board.records.values()
    data["id"] = f"{data['id'][:-8]}00000000"
    board.add(data)
    assert list(Board.read(file.parent).records) == [f"{data['id']}.json"]
    leaderboard.build(file.parent)


def test_a_stale_cell_that_fails_keeps_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "board", ONE)
    assert run(file, "--seeds", "0").exit_code == 0
    other_code(monkeypatch, "defense", "random")
    (job,) = grid.read(file).jobs([0])
    Board(tmp_path / "board").fail(job.config(job.defenses[0]), 0, "no luck")
    board = Board.read(tmp_path / "board")
    assert board.state(job, job.defenses[0]) == "failed" and len(board.records) == 1
    assert board.pending([job]) == [job]


def test_of_many_rows_that_other_code_made_a_few_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = ", ".join(f"0.0{rate}" for rate in range(2, 9))
    file = made(tmp_path / "board", ONE.replace("rate = 0.04, size = 2", f"rate = [{rates}]"))
    assert run(file, "--seeds", "0").exit_code == 0
    other_code(monkeypatch, "attack", "badnets")
    lines = CliRunner().invoke(cli, ["leaderboard", "show", str(file.parent)]).stderr.splitlines()
    assert len(lines) == 6 and lines[-1] == "stale: 2 rows more"
    assert lines[0].startswith("stale: digits, convnet, badnets rate=0.02, random: seeds 0 were made by other ")
