from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import leaderboard, record
from bdbench.cli import cli
from bdbench.leaderboard import markdown
from bdbench.leaderboard.frame import NUMBERS
from tests.conftest import make_board


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


def test_what_a_removal_did_is_empty_where_none_was_asked_for(template: dict[str, Any], tmp_path: Path) -> None:
    scored = json.loads(json.dumps(template))
    scored["config"]["budget"] = scored["detection"]["budget"] = 0.0
    board(scored, tmp_path, [0.7, 0.8])
    assert build(tmp_path).exit_code == 0
    row = pd.read_csv(tmp_path / "table.csv").iloc[0]
    empty = {name for name in NUMBERS if np.isnan(row[name])}
    assert {"ca_after", "asr_after", "ra_after", "der", "tpr_at_budget", "fpr_at_budget"} <= empty
    assert not empty & {"ca_before", "asr_before", "auroc", "ap", "tpr_at_1pct_fpr"}
    # Beside cells that were removed from, the page has no columns and no matrix of it.
    board(template, tmp_path, [0.7, 0.8], defense="spectral")
    assert build(tmp_path).exit_code == 0
    scored_alone, removed = (tmp_path / "README.md").read_text().split("\n## ")[1:]
    assert "budget 0 %" in scored_alone and "after" not in scored_alone
    assert "ASR after" in removed and "ASR after by attack" in removed
    assert "nan" not in scored_alone + removed
    # Nor is there anything in a matrix that is asked for.
    assert "nan" not in markdown.part(tmp_path, where=["defense=random"], matrix="asr_after")


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
    for file in ("table.csv", "README.md", "index.html", "cost.svg"):
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


def rivals(template: dict[str, Any], folder: Path, ders: dict[str, list[float]], **changes: Any) -> pd.DataFrame:
    """A board of defenses with those DERs by seed, in a table by defense."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for defense, values in ders.items():
        for seed, der in enumerate(values):
            data = json.loads(json.dumps(template))
            data |= {"seed": seed, "id": f"{defense}-{seed}"}
            data["config"]["defense"] = {"name": defense}
            data["derived"]["defense_effectiveness_rating"] = der
            for part, numbers in changes.items():
                data[part].update(numbers(defense, seed))
            (folder / "records" / f"{data['id']}.json").write_text(record.dumps(data))
    leaderboard.build(folder)
    return pd.read_csv(folder / "table.csv").set_index("defense")


def test_best_and_rank_only_where_intervals_lie_apart(template: dict[str, Any], tmp_path: Path) -> None:
    clear = rivals(template, tmp_path / "a", {"a": [0.9, 0.91, 0.92], "b": [0.5, 0.51, 0.52], "c": [0.51, 0.52, 0.53]})
    assert clear["rank"].to_dict() == {"a": 1, "b": 2, "c": 2}
    assert clear["best"].str.split().map(lambda n: n == n and "der" in n).to_dict() == {
        "a": True,
        "b": False,
        "c": False,
    }
    text = (tmp_path / "a" / "README.md").read_text()
    assert re.search(r"\| a +\| 1 +\|", text) and re.search(r"\| b +\| 2= +\|", text)
    near = rivals(template, tmp_path / "b", {"a": [0.4, 0.9, 0.95], "b": [0.5, 0.51, 0.52]})
    assert near["rank"].tolist() == [1, 1] and near["best"].isna().all()
    alone = rivals(template, tmp_path / "c", {"a": [0.9, 0.91], "b": [0.5]})
    assert alone["best"].isna().all()
    assert alone["rank"].to_dict() == {"a": 1, "b": pytest.approx(np.nan, nan_ok=True)}


def test_less_is_better_of_the_attacks_success(template: dict[str, Any], tmp_path: Path) -> None:
    success = {"a": 0.1, "b": 0.9}
    table = rivals(
        template,
        tmp_path,
        {"a": [0.5, 0.5], "b": [0.5, 0.5]},
        after=lambda defense, seed: {"attack_success_rate": success[defense] + seed / 1000},
    )
    assert table["best"].fillna("").str.split().to_dict() == {"a": ["asr_after"], "b": []}
    assert "**10.1 ± 0.6**" in (tmp_path / "README.md").read_text()


def test_the_control_tells_what_the_same_defense_costs(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.7, 0.8])
    control = json.loads(json.dumps(template))
    control["config"]["attack"] = {"name": "none"}
    control["derived"]["defense_effectiveness_rating"] = None
    for part in ("before", "after"):
        control[part] |= {"attack_success_rate": None, "robust_accuracy": None}
    for seed, drop in enumerate([0.02, 0.04]):
        control |= {"seed": seed, "id": f"control-{seed}"}
        control["before"]["clean_accuracy"], control["after"]["clean_accuracy"] = 0.9, 0.9 - drop
        (tmp_path / "records" / f"control-{seed}.json").write_text(record.dumps(control))
    build(tmp_path)
    table = pd.read_csv(tmp_path / "table.csv").set_index("attack")
    assert table["control_ca_drop"].tolist() == [pytest.approx(0.03)] * 2
    assert table["rank"].isna()["none"] and table["rank"]["badnets"] == 1
    assert "3.0 ± 12.7" in (tmp_path / "README.md").read_text()


def test_p_values_are_shown_where_there_are_any(
    template: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board(template, tmp_path / "without", [0.7])
    build(tmp_path / "without")
    assert "| p < 0.05" not in (tmp_path / "without" / "README.md").read_text()
    monkeypatch.setattr(record, "validate", lambda data, where="": None)
    table = rivals(
        template,
        tmp_path / "with",
        {"a": [0.5] * 4},
        detection=lambda defense, seed: {"p_value": [0.01, 0.2, 0.3, None][seed]},
    )
    assert table["alarms"]["a"] == pytest.approx(1 / 3) and table["p_value"]["a"] == pytest.approx(0.17)
    assert re.search(r"\| p < 0.05", (tmp_path / "with" / "README.md").read_text())


def add(folder: Path, *paths: Path) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "add", str(folder), *map(str, paths)])


def test_records_from_elsewhere_are_taken_in_all_or_none(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path / "theirs", [0.6, 0.7])
    theirs = sorted((tmp_path / "theirs" / "records").iterdir())
    assert add(tmp_path / "ours", theirs[0]).exit_code == 0
    copy = tmp_path / "ours" / "records" / theirs[0].name
    assert copy.read_bytes() == theirs[0].read_bytes()
    data = json.loads(theirs[1].read_text())
    mistakes = {
        "definitions": ({"definitions": 2}, "defined as in version 2 of the definitions .* expected version 1"),
        "schema": ({"schema": "bdbench.record/2"}, "schema 'bdbench.record/2' is not supported"),
        "invalid": ({"seed": -1}, "not a valid record at seed"),
        "twice": ({"seed": 0, "id": "other"}, "random-0.json is of the same cell and seed"),
    }
    for name, (change, message) in mistakes.items():
        bad = tmp_path / f"{name}.json"
        bad.write_text(record.dumps({**data, **change}))
        result = add(tmp_path / "ours", theirs[1], bad)
        assert result.exit_code == 2 and re.search(message, result.stderr), result.stderr
        assert list((tmp_path / "ours" / "records").iterdir()) == [copy]
    assert add(tmp_path / "ours", *theirs).exit_code == 0
    assert build(tmp_path / "ours").exit_code == 0


def test_a_record_of_other_definitions_spoils_no_table(template: dict[str, Any], tmp_path: Path) -> None:
    board(template, tmp_path, [0.6])
    (file,) = (tmp_path / "records").iterdir()
    data = json.loads(file.read_text())
    del data["definitions"]
    file.write_text(record.dumps(data))
    assert build(tmp_path).exit_code == 0
    assert record.read(file).definitions == 1
    file.write_text(record.dumps({**data, "definitions": 2}))
    assert "expected version 1" in build(tmp_path).stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_board(tmp_path_factory.mktemp("board") / "made")
    (folder / "records" / "none-low-loss-0.json").unlink()
    lists = {"datasets": ["digits"], "models": ["convnet"], "attacks": ["none", "sig"], "defenses": ["low-loss"]}
    (folder / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()) + 'seeds = "0-1"\n')
    return folder


def show(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "show", str(folder), *options])


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its heading."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_a_part_is_filtered_sorted_and_grouped(made: Path) -> None:
    blend = ("--where", "attack=blend rate=0.05")
    assert rows(show(made, *blend, "--sort", "auroc", "--columns", "defense,auroc").stdout) == [
        ["spectral", "**0.910 ± 0.025**"], ["low-loss", "0.710 ± 0.025"], ["random", "0.510 ± 0.025"],
    ]  # fmt: skip
    least = rows(show(made, *blend, "--sort", "asr_after", "--columns", "defense").stdout)
    assert least == [["spectral"], ["low-loss"], ["random"]]
    by = show(made, "--by", "defense", "--where", "defense=spectral", "--where", "defense=random").stdout
    assert re.findall("^## (.*)", by, re.M) == ["random", "spectral"]
    table = pd.read_csv(StringIO(show(made, "--csv", "--where", "attack=none").stdout))
    assert set(table["attack"]) == {"none"} and len(table) == 3


def test_what_was_not_run_is_said_everywhere(made: Path) -> None:
    heading, _, *lines = show(made, "--matrix", "auroc").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "low-loss", "random", "spectral", ""]
    assert [line.count("not run") for line in lines] == [0, 3]
    heading, _, blend, *_ = show(made, "--matrix", "asr_after").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")][1:4] == ["attack", "no defense", "low-loss"]
    assert rows(show(made, "--where", "attack=blend", "--columns", "asr_before").stdout)[0][0] in blend.split("|")[2]
    leaderboard.build(made)
    assert leaderboard.stale(made) == []
    readme = (made / "README.md").read_text()
    assert "- none: low-loss (seeds 0)" in readme and "- sig rate=0.05: every defense (seeds 0-1)" in readme
    table = pd.read_csv(made / "table.csv").set_index(["attack", "defense"])
    assert table["not_run"].dropna().to_dict() == {("none", "low-loss"): "0", ("sig", "low-loss"): "0-1"}
    assert table["seeds"]["sig", "low-loss"] == 0 and np.isnan(table["ca_after"]["sig", "low-loss"])
    assert (made / "index.html").read_text().count("Not run: seeds") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "attack=blnd"], "unknown attack 'blnd'"),
        (["--where", "rate=1"], "unknown condition 'rate=1'"),
        (["--sort", "auorc"], "unknown column 'auorc': did you mean 'auroc'"),
        (["--columns", "attack,auorc"], "unknown column 'auorc'"),
        (["--matrix", "auorc"], "unknown column 'auorc'"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(made: Path, options: list[str], message: str) -> None:
    result = show(made, *options)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
