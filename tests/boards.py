"""Boards of made records: how the tests build, add to, show and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import CliRunner, Result

from bdbench.cli import cli
from tests.records import keep


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "build", str(folder), *options])


def table_of(folder: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    """table.csv of a leaderboard of these records."""
    result = build(keep(folder, *rows))
    assert result.exit_code == 0, result.output
    return pd.read_csv(folder / "table.csv")


def one_row(folder: Path, *rows: dict[str, Any]) -> Any:
    table = table_of(folder, *rows)
    assert len(table) == 1
    return table.iloc[0]


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its heading."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def add(folder: Path, *paths: Path) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "add", str(folder), *map(str, paths)])


def of_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """About what the first version held of it."""
    names = (
        "id", "seed", "config", "oracles", "environment", "before", "detection", "after", "derived", "cost", "extra",
    )  # fmt: skip
    old = json.loads(json.dumps({name: data[name] for name in names}))
    for part in ("before", "after"):
        old[part] = {k: old[part][k] for k in ("clean_accuracy", "attack_success_rate", "robust_accuracy")}
    old["config"] = {k: v for k, v in old["config"].items() if k not in ("reserve", "files", "code", "data")}
    old["environment"] = {k: old["environment"][k] for k in ("versions", "device", "threads", "commit")}
    old["derived"].pop("signed")
    return {**old, "schema": "bdbench.record/1"}


def show(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "show", str(folder), *options])
