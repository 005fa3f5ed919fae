"""The records of a leaderboard as a data frame, and records from elsewhere taken in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bdbench import foreign
from bdbench.components import configs
from bdbench.errors import BdbenchError
from bdbench.grids.board import Board, check_definitions
from bdbench.leaderboard import columns, identity
from bdbench.storage import record
from bdbench.storage.store import write_file


def _component(kind: str) -> list[str]:
    return [kind, f"{kind}_parameters", f"{kind}_made"]


# What is compared with each other was made on one ground.
GROUND = [*_component("dataset"), *_component("model"), "reserve"]
# A defense in a setting, whatever the attack: the control of a row is the row of it where nothing is attacked.
DEFENDED = [*GROUND, *_component("defense"), "stage", "access", "budget"]
ATTACKED = [*GROUND, *_component("attack")]
# One attack on one ground, and every defense of one stage and with the same access against it.
RIVALS = [*ATTACKED, "stage", "access", "budget"]
# A row.
CELL = [*(name for kind in configs.KINDS for name in _component(kind)), "stage", "access", "budget", "reserve"]
COSTS = (
    "craft_seconds", "poison_seconds", "shared_seconds", "defense_seconds", "times_victim", "seconds_per_input",
    "models_trained", "peak_memory_mb",
)  # fmt: skip


def load(folder: Path) -> pd.DataFrame:
    """One row for each record of ``folder/records/*.json``, sorted. Raises BdbenchError."""
    return frame_of(Board.read(folder))


def frame_of(board: Board) -> pd.DataFrame:
    """One row for each record of a leaderboard, sorted. Raises BdbenchError."""
    if not board.records:
        bad = (
            f"; {len(board.unreadable)} do not read: {next(iter(board.unreadable.values()))}"
            if board.unreadable
            else ""
        )
        raise BdbenchError(
            f"no records in {board.folder / 'records'}: expected *.json files, copies of record.json{bad}"
        )
    frame = pd.DataFrame([{**_row(data), "file": name} for name, data in board.records.items()])
    numbers = [*columns.NUMBERS, *columns.extras(frame), "p_value", *COSTS, "score", "accused", "hit"]
    frame = frame.astype(dict.fromkeys(numbers, float))
    frame["ca_cost"] = frame["ca_base"] - frame["ca_after"]
    repeated = frame[frame.duplicated([*CELL, "seed"])]
    if len(repeated):
        here = f"two records in {board.folder} are of the same cell and seed"
        raise BdbenchError(f"{here}: {repeated['id'].iloc[0]} is one")
    return frame.sort_values([*CELL, "seed"], kind="stable", ignore_index=True)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a data frame, by column."""
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def csv_of(table: pd.DataFrame) -> str:
    """A table as CSV, in which no text is a formula."""
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    harmless = table.assign(**{name: table[name].map(foreign.cell) for name in texts})
    return harmless.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def add(folder: Path, runs: Iterable[Path], replace: bool = False) -> list[Path]:
    """Copy the records of runs, or record files, into ``folder/records``; all of them or none. Returns the copies.

    With ``replace`` each takes the place of what is there of its cell and seed, whatever that was made of. Raises
    BdbenchError for a record that is not valid, of other definitions, or, without ``replace``, of a cell and seed that
    is there and made of the same, unless it is that very record; also for two of one cell and seed among the runs.
    """
    board = Board.read(folder)
    identify = _cell_and_seed if replace else _identity
    taken = {} if replace else {identify(data): name for name, data in board.records.items()}
    copies = {}
    for run in runs:
        data = record.load(run)
        check_definitions(data, run)
        copy = folder / "records" / f"{data['id']}.json"
        owner = taken.setdefault(identify(data), copy.name)
        another = copy.name in board.records and record.text(board.records[copy.name]) != record.text(data)
        if owner != copy.name or copy in copies or (another and not replace):
            raise BdbenchError(f"{run}: {owner} is of the same cell and seed: expected one record of each")
        copies[copy] = data
    for copy, data in copies.items():
        if replace:
            board.add(data)
        else:
            write_file(copy, record.text(data))
    # Whoever put a file there may have given it any name.
    for name, data in board.records.items() if replace else ():
        if _cell_and_seed(data) in taken and folder / "records" / name not in copies:
            (folder / "records" / name).unlink(missing_ok=True)
    return list(copies)


def repeated(folder: Path) -> int:
    """How many records of a board are of the cell and seed of another one there, and were made of something else."""
    records = Board.read(folder).records.values()
    return len(records) - len({_cell_and_seed(data) for data in records})


def cell_columns(cell: Mapping[str, Any], stage: str, access: Iterable[str]) -> dict[str, Any]:
    """The columns CELL of a cell (``configs.cell_of``) but for what it was made of."""
    row: dict[str, Any] = {}
    for kind in configs.KINDS:
        row[kind] = cell[kind]["name"]
        row[f"{kind}_parameters"] = json.dumps(configs.parameters(cell[kind]), sort_keys=True)
    row["stage"] = stage
    row["access"] = ", ".join(name.replace("_", " ") for name in access) or "none"
    # To other stages a budget does not apply, whatever the run was given.
    budget = cell["budget"] if stage == "training set" else None
    row["budget"] = budget if isinstance(budget, str) else "" if budget is None else f"{budget:g}"
    row["reserve"] = float(cell["reserve"])
    return row


def _cell_and_seed(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return (json.dumps(configs.cell_of(data["config"]), sort_keys=True), data["seed"])


def _identity(data: Mapping[str, Any]) -> tuple[Any, ...]:
    row = _cell(data)
    return (*(row[name] for name in CELL), data["seed"])


def _cell(data: Mapping[str, Any]) -> dict[str, Any]:
    config = data["config"]
    made = {f"{kind}_made": json.dumps(parts) for kind, parts in identity.made(config).items()}
    return {**cell_columns(configs.cell_of(config), data["stage"], data["access"]), **made}


def _row(data: Mapping[str, Any]) -> dict[str, Any]:
    config, cost, environment = data["config"], data["cost"], data["environment"]
    row: dict[str, Any] = {"id": data["id"], "seed": data["seed"], "control": data["control"], **_cell(data)}
    row["made_of"] = configs.identity(config)
    row |= {name: columns.value(data, name) for name in columns.NUMBERS}
    row |= {f"{columns.EXTRA}{name}": value for name, value in data["extra"].items()}
    row |= {f"{pool} pool": count for pool, count in columns.pools(data).items()}
    row["p_value"] = data["p_value"]
    verdict = data["verdict"] or dict.fromkeys(("score", "flagged", "hit"))
    facts = config.get("data", {})
    row["tried_on"] = f"{facts.get('poisoned')} {facts.get('challenge')}"
    # Asked here as well: of older records, which say that every name hits.
    tells = record.names_tell(len(facts.get("targets", [])), facts.get("classes", 0))
    hit = bool(verdict["hit"]) if tells and verdict["score"] is not None else None
    row |= {"score": verdict["score"], "accused": verdict["flagged"], "hit": hit}
    seconds = cost["seconds"]
    # Where a budget is removed as well, what its own decision takes is beside the numbers after.
    twice = {record.BY_DECISION} if {"retrain", record.BY_DECISION} <= seconds.keys() else set()
    own = sum(s for stage, s in seconds.items() if stage not in {*record.SHARED_STAGES, *twice})
    row |= {f"{stage}_seconds": seconds.get(stage) for stage in ("craft", "poison")}
    row["shared_seconds"] = sum(seconds.get(stage, 0.0) for stage in record.SHARED_STAGES)
    row["defense_seconds"] = own
    row["times_victim"] = own / seconds["victim"] if seconds.get("victim") else None
    row["seconds_per_input"] = record.number(data, "inputs.seconds_per_input")
    row["models_trained"] = cost["models_trained"] - len(twice)
    row["peak_memory_mb"] = cost["peak_memory_mb"]
    row["device"] = f"{environment['device']} x{environment['threads']}"
    row |= {name: environment[name] for name in ("processor", "precision")}
    row["torch"] = environment["versions"].get("torch", "")
    row["command"] = configs.command(config, data["seed"])
    return row
