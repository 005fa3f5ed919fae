"""The script that makes published numbers again agrees with what is committed, and sees what is not so."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench.storage.store import key_of

BOARDS = Path(__file__).parents[1] / "leaderboards"
SCRIPT = BOARDS / "recompute.py"


def recomputed(*arguments: object) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


def test_it_imports_nothing_of_what_it_checks() -> None:
    assert "import bdbench" not in SCRIPT.read_text() and "from bdbench" not in SCRIPT.read_text()


def test_every_committed_number_is_made_again() -> None:
    code, said = recomputed()
    assert code == 0, said
    assert len(said.splitlines()) == len(list(BOARDS.glob("*/table.csv")))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """One line of the digits board, with its records."""
    made = tmp_path / "board"
    (made / "records").mkdir(parents=True)
    name = "digits-convnet-tact-spectral"
    for file in (BOARDS / "digits" / "records").glob(f"{name}-*.json"):
        shutil.copy(file, made / "records")
    with (BOARDS / "digits" / "table.csv").open(newline="") as lines:
        table = list(csv.DictReader(lines))
    own = [line for line in table if (line["attack"], line["defense"]) == ("tact", "spectral")]
    with (made / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(own)
    return made


def test_rates_over_draws_among_equal_scores_are_no_shares_and_rates_all_the_same(board: Path) -> None:
    file = sorted((BOARDS / "digits" / "records").glob("*-strip-*.json"))[0]
    record = json.loads(file.read_text())
    for file in (board / "records").iterdir():
        file.unlink()
    (board / "table.csv").write_text("")
    for low, high, said in ((0.1234567, 0.2345678, ""), (0.2, 0.1, "is more than"), (0.1, 1.51234, "is no share of")):
        record["inputs"] |= {"tpr_at_1pct_fpr": low, "tpr_at_5pct_fpr": high}
        record.pop("digest", None)
        (board / "records" / "one.json").write_text(json.dumps({**record, "digest": key_of(record)}))
        lines = [line for line in recomputed(board)[1].splitlines() if "tpr_at" in line]
        assert bool(lines) == bool(said) and all(said in line for line in lines)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("before.clean_accuracy", 0.9876543, "before.clean_accuracy = 0.9876543 is no share of 360"),
        ("detection.auroc", 0.7654321, "detection.auroc = 0.7654321 is no share of"),
        ("detection.tpr_at_budget", 1.0, "of 1365 examples are removed, not 136"),
        ("derived.signed", 0.5, "derived.signed = 0.5, not"),
        ("after.robust_accuracy", 1.0, "are right"),
    ],
)
def test_a_number_that_was_changed_is_named(board: Path, path: str, value: float, said: str) -> None:
    assert recomputed(board)[0] == 0
    file = sorted((board / "records").glob("*.json"))[0]
    record: dict[str, Any] = json.loads(file.read_text())
    part, name = path.split(".")
    record[part][name] = value
    file.write_text(json.dumps(record))
    code, lines = recomputed(board)
    assert code == 1 and f"digest = {record['digest']}, of what it holds it is " in lines
    # Whoever changes numbers may well change that, too.
    del record["digest"]
    file.write_text(json.dumps({**record, "digest": key_of(record)}))
    code, lines = recomputed(board)
    assert "digest" not in lines
    # The record is wrong in itself, and the line of the table is no longer its mean.
    assert code == 1 and said in lines and "table.csv" in lines


@pytest.mark.parametrize(("fewer", "named"), [(["before", "reference", "after"], False), (["before"], True)])
def test_accuracies_are_of_one_number_of_test_images(board: Path, fewer: list[str], named: bool) -> None:
    """Those that a challenge shows as they are, are none of them, and no record says how many these are."""
    file = sorted((board / "records").glob("*.json"))[0]
    record: dict[str, Any] = json.loads(file.read_text())
    for part in fewer:
        count = record["config"]["data"]["test"] - 2
        record[part]["clean_accuracy"] = round(count * record[part]["clean_accuracy"]) / count
    del record["digest"]
    file.write_text(json.dumps({**record, "digest": key_of(record)}))
    assert ("clean_accuracy = " in "".join(re.findall(r".*is no share of.*", recomputed(board)[1]))) == named


def test_a_line_of_the_table_that_was_changed_is_named(board: Path) -> None:
    file = board / "table.csv"
    with file.open(newline="") as lines:
        (line,) = csv.DictReader(lines)
    for name, off in (("auroc", 0.001), ("auroc_low", 0.01)):
        changed = {**line, name: str(float(line[name]) + off)}
        with file.open("w", newline="") as to:
            writer = csv.DictWriter(to, line)
            writer.writeheader()
            writer.writerow(changed)
        code, said = recomputed(board)
        assert code == 1 and "tact against spectral: auroc" in said


def test_a_record_that_no_line_tells_of_is_named(board: Path) -> None:
    sorted((board / "records").glob("*.json"))[0].unlink()
    code, said = recomputed(board)
    assert code == 1 and "5 seeds, and 4 records" in said


def test_a_runs_own_scores_are_counted_again(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense="low-loss", **tiny)
    # What a process that was killed left of another run.
    left = tiny["out"] / ".unfinished-run"
    left.mkdir()
    shutil.copy(tiny["out"] / record.id / "scores.npz", left)
    assert recomputed(BOARDS / "digits", "--runs", tiny["out"])[0] == 0
    scores = tiny["out"] / record.id / "scores.npz"
    arrays = dict(np.load(scores))
    np.savez(scores, **{**arrays, "scores": arrays["scores"][::-1]})
    code, said = recomputed(BOARDS / "digits", "--runs", tiny["out"])
    assert code == 1 and "detection.auroc" in said and "by its scores" in said
