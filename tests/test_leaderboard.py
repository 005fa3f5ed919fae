from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import leaderboard, record
from bdbench.cli import cli

COMMITTED = sorted(p.parent for p in (Path(__file__).parent.parent / "leaderboards").glob("*/records"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.conftest import TINY

    return bdbench.run(defense="random", out=tmp_path_factory.mktemp("runs"), **TINY).to_dict()


def board(template: dict[str, Any], folder: Path, aurocs: list[float | None], **changes: Any) -> None:
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for seed, auroc in enumerate(aurocs):
        data = json.loads(json.dumps(template))
        data["seed"] = seed
        data["id"] = f"{changes.get('defense', 'random')}-{seed}"
        data["config"]["defense"]["name"] = changes.get("defense", "random")
        data["detection"]["auroc"] = auroc
        (folder / "records" / f"{data['id']}.json").write_text(record.dumps(data))


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "build", str(folder), *options])


def test_means_and_intervals_by_hand(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.7, 0.8, 0.9])
    assert build(tmp_path).exit_code == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 1
    row = table.iloc[0]
    assert row["seeds"] == 3
    assert row["auroc"] == pytest.approx(0.8)
    # Student's t with 2 degrees of freedom: 4.302653; the standard error is 0.1 / sqrt(3).
    assert row["auroc_ci95"] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert "0.800 ± 0.248" in (tmp_path / "README.md").read_text()


def test_what_does_not_apply_is_empty_never_zero(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [None, None])
    build(tmp_path)
    row = pd.read_csv(tmp_path / "table.csv").iloc[0]
    assert np.isnan(row["auroc"]) and np.isnan(row["auroc_ci95"])


def test_rows_of_one_defense_are_told_apart_by_what_differs(template: dict[str, Any], tmp_path: Path) -> None:
    for name, models in (("a", 10), ("b", 20)):
        changed = json.loads(json.dumps(template))
        changed["config"]["defense"].update(models=models, alpha=0.2)
        board(changed, tmp_path / name, [0.5])
        for file in (tmp_path / name / "records").iterdir():
            (tmp_path / "records").mkdir(exist_ok=True)
            file.rename(tmp_path / "records" / f"{name}.json")
    build(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "random models=10 |" in text and "random models=20 |" in text
    assert "alpha" not in text
    assert "badnets rate=0.05 |" in text


def test_one_seed_has_no_interval(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.7])
    build(tmp_path)
    assert np.isnan(pd.read_csv(tmp_path / "table.csv").iloc[0]["auroc_ci95"])
    assert "| 0.700 |" in (tmp_path / "README.md").read_text().replace("  ", "")


def test_the_same_records_give_the_same_bytes(template: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        order = ["random", "spectral"] if name == "one" else ["spectral", "random"]
        for defense in order:
            board(template, tmp_path / name / "board", [0.5, 0.6], defense=defense)
        build(tmp_path / name / "board")
    for file in ("table.csv", "README.md"):
        first, second = ((tmp_path / n / "board" / file).read_bytes() for n in ("one", "two"))
        assert first == second


def test_check_writes_nothing_and_fails_on_a_difference(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.7, 0.8])
    missing = build(tmp_path, "--check")
    assert missing.exit_code == 1 and not (tmp_path / "table.csv").exists()
    build(tmp_path)
    assert build(tmp_path, "--check").exit_code == 0
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace("0.75", "0.99"))
    changed = build(tmp_path, "--check")
    assert changed.exit_code == 1
    assert "table.csv differs from the records" in changed.stderr
    assert "0.99" in (tmp_path / "table.csv").read_text()


def test_an_invalid_record_and_an_empty_board_are_named(template: dict[str, Any], tmp_path: Path) -> None:
    empty = build(tmp_path)
    assert empty.exit_code == 2 and "no records in" in empty.stderr
    board(template, tmp_path, [0.7])
    file = next((tmp_path / "records").glob("*.json"))
    file.write_text(file.read_text().replace('"seed": 0', '"seed": "zero"'))
    invalid = build(tmp_path)
    assert invalid.exit_code == 2 and file.name in invalid.stderr and "at seed" in invalid.stderr


def test_two_records_of_one_cell_and_seed_are_refused(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.7])
    data = json.loads(next((tmp_path / "records").glob("*.json")).read_text())
    (tmp_path / "records" / "again.json").write_text(record.dumps(data))
    assert "two records" in build(tmp_path).stderr


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda p: p.name)
def test_what_is_committed_is_what_the_records_give(folder: Path) -> None:
    assert leaderboard.stale(folder) == []


def test_digits_default_keeps_the_readmes_promise() -> None:
    """Blend against the default detector: it works as an attack, and is found, on seeds 0-4 and on 5-9."""
    board = Path(__file__).parent.parent / "leaderboards" / "digits"
    frame = leaderboard.load(board)
    rows = frame[(frame["attack"] == "blend") & (frame["defense"] == "datamodel")]
    rows = rows[rows["defense_parameters"].str.contains('"estimator": "out-of-sample"')]
    for seeds in (range(5), range(5, 10)):
        means = rows[rows["seed"].isin(seeds)].set_index("seed").mean(numeric_only=True)
        assert rows["seed"].isin(seeds).sum() == 5
        assert means["asr_before"] >= 0.8 and means["ca_before"] >= 0.95
        assert means["auroc"] >= 0.95 and means["asr_after"] <= 0.1
