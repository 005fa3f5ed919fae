"""The records of a leaderboard as a data frame, and records from elsewhere taken in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bdbench import record
from bdbench.board import Board
from bdbench.errors import BdbenchError
from bdbench.store import write_file

CELL = [*(name for kind in record.KINDS for name in (kind, f"{kind}_parameters")), "oracles", "budget"]
# column -> path in the record
NUMBERS = {
    "ca_before": ("before", "clean_accuracy"),
    "asr_before": ("before", "attack_success_rate"),
    "ra_before": ("before", "robust_accuracy"),
    "auroc": ("detection", "auroc"),
    "ap": ("detection", "average_precision"),
    "tpr_at_budget": ("detection", "tpr_at_budget"),
    "fpr_at_budget": ("detection", "fpr_at_budget"),
    "tpr_at_1pct_fpr": ("detection", "tpr_at_1pct_fpr"),
    "p_value": ("detection", "p_value"),
    "ca_after": ("after", "clean_accuracy"),
    "asr_after": ("after", "attack_success_rate"),
    "ra_after": ("after", "robust_accuracy"),
    "der": ("derived", "defense_effectiveness_rating"),
}


def load(folder: Path) -> pd.DataFrame:
    """One row for each record of ``folder/records/*.json``, sorted. Raises BdbenchError."""
    return frame_of(Board.read(folder))


def frame_of(board: Board) -> pd.DataFrame:
    """One row for each record of a leaderboard, sorted. Raises BdbenchError."""
    if not board.records:
        raise BdbenchError(f"no records in {board.folder / 'records'}: expected *.json files, copies of record.json")
    for name, data in board.records.items():
        _check_definitions(data, board.folder / "records" / name)
    frame = pd.DataFrame([{**_row(data), "file": name} for name, data in board.records.items()])
    frame = frame.astype(dict.fromkeys(NUMBERS, float))
    repeated = frame[frame.duplicated([*CELL, "seed"])]
    if len(repeated):
        here = f"two records in {board.folder} are of the same cell and seed"
        raise BdbenchError(f"{here}: {repeated['id'].iloc[0]} is one")
    return frame.sort_values([*CELL, "seed"], kind="stable", ignore_index=True)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a data frame, by column."""
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def add(folder: Path, runs: Iterable[Path]) -> list[Path]:
    """Copy the records of runs, or record files, into ``folder/records``; all of them or none. Returns the copies.

    Raises BdbenchError for a record that is not valid, of other definitions, or of a cell and seed that is there.
    """
    records = folder / "records"
    taken = {_identity(_row(data)): name for name, data in Board.read(folder).records.items()}
    texts = {}
    for run in runs:
        data = record.load(run)
        _check_definitions(data, run)
        copy = records / f"{data['id']}.json"
        owner = taken.setdefault(_identity(_row(data)), copy.name)
        if owner != copy.name or copy in texts:
            raise BdbenchError(f"{run}: {owner} is of the same cell and seed: expected one record of each")
        texts[copy] = record.dumps(data)
    records.mkdir(parents=True, exist_ok=True)
    for copy, text in texts.items():
        write_file(copy, text)
    return list(texts)


def _check_definitions(data: Mapping[str, Any], path: Path) -> None:
    found = data.get("definitions", 1)
    if found != record.DEFINITIONS:
        theirs = f"{path}: its numbers are defined as in version {found} of the definitions in bdbench.metrics"
        raise BdbenchError(f"{theirs}: expected version {record.DEFINITIONS}, since two do not compare")


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in [*CELL, "seed"])


def _row(data: Mapping[str, Any]) -> dict[str, Any]:
    config, cost, environment = data["config"], data["cost"], data["environment"]
    row: dict[str, Any] = {"id": data["id"], "seed": data["seed"], "budget": config["budget"]}
    for kind in record.KINDS:
        row[kind] = config[kind]["name"]
        row[f"{kind}_parameters"] = json.dumps(record.parameters(config[kind]), sort_keys=True)
    row["oracles"] = " ".join(data["oracles"]) or "none"
    for name, (part, key) in NUMBERS.items():
        row[name] = record.number(data, part, key)
    seconds = cost["seconds"]
    row["shared_seconds"] = sum(seconds.get(stage, 0.0) for stage in record.SHARED_STAGES)
    row["defense_seconds"] = sum(s for stage, s in seconds.items() if stage not in record.SHARED_STAGES)
    row["models_trained"] = cost["models_trained"]
    row["peak_memory_mb"] = cost["peak_memory_mb"]
    row["device"] = f"{environment['device']} x{environment['threads']}"
    row["command"] = record.command(config, data["seed"])
    return row
