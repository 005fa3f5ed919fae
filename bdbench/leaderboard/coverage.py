"""What a leaderboard's grid asks for and its records do not give, and which of its rows other code made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bdbench.components import configs, sources
from bdbench.components.applicable import why_not
from bdbench.grids.board import Board
from bdbench.grids.grid import show_seeds
from bdbench.leaderboard.frame import CELL, cell_columns
from bdbench.registry.plugins import installed

_ASKED = [name for name in CELL if not name.endswith("_made")]
_NOTES = ("not_run", "failed", "not_applicable")


def covered(table: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The table with a row of 0 seeds for each cell of the board's grid that has no record, sorted.

    New columns: ``not_run``, the seeds that the grid asks for and nobody ran, ``failed``, the errors of those that were
    tried, and ``not_applicable``, why a defense is not to be run. All are empty without a grid. Raises BdbenchError if
    the grid cannot be read.
    """
    table = table.assign(**dict.fromkeys(_NOTES, ""))
    rows: dict[tuple[Any, ...], int] = {}
    for i, key in enumerate(table[_ASKED].itertuples(index=False, name=None)):
        rows.setdefault(key, i)
    new = []
    for gap in _gaps(board):
        row = rows.get(tuple(gap[name] for name in _ASKED))
        if row is None:
            new.append({**gap, **_made(table, gap)})
        else:
            for name in _NOTES:
                table.loc[row, name] = gap[name]
    if not new:
        return table
    empty = dict.fromkeys(("best", "rank", "works", "device", "processor", "made_of"), "")
    gaps = pd.DataFrame([{**empty, "seeds": 0, "control": False, **gap} for gap in new])
    zeros = [name for name in table if pd.api.types.is_integer_dtype(table[name])]
    gaps[zeros] = 0
    gaps = gaps.reindex(columns=table.columns).astype({name: table[name].dtype for name in table})
    return pd.concat([table, gaps]).sort_values(CELL, kind="stable", ignore_index=True)


def made_by_other_code(board: Board) -> list[str]:
    """A line for each cell with records whose attack, defense or model has other code today: which, and the seeds.

    What is not installed here cannot be told of.
    """
    today = {
        (kind, r.name): sources.own_code(r.component)
        for kind in ("model", "attack", "defense")
        for r in installed().registered(kind)
    }
    names = {kind: _labels([data["config"][kind] for data in board.records.values()]) for kind in configs.KINDS}
    found: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for data in board.records.values():
        config = data["config"]
        now = {kind: _code(today, kind, config[kind]) for kind in config["code"]}
        changed = tuple(kind for kind, code in config["code"].items() if now[kind] not in (None, code))
        if changed:
            cell = ", ".join(names[kind][json.dumps(config[kind])] for kind in configs.KINDS)
            found.setdefault((cell, changed), []).append(data["seed"])
    return [
        f"{cell}: seeds {show_seeds(seeds)} were made by other code of the {' and the '.join(changed)} than today's"
        for (cell, changed), seeds in sorted(found.items())
    ]


def _labels(components: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A short name for each component's config, as JSON."""
    distinct = {json.dumps(component): component for component in components}
    return dict(zip(distinct, configs.labels(list(distinct.values())), strict=True))


def _code(today: Mapping[tuple[str, str], str], kind: str, component: Mapping[str, Any]) -> str | None:
    """What the code of a component, and of those that it is made of, says today; None if one is not installed."""
    codes = [today.get((kind, part["name"])) for part in (component, *configs.parts(component))]
    known = [code for code in codes if code is not None]
    return sources.joined(known) if len(known) == len(codes) else None


def _gaps(board: Board) -> list[dict[str, Any]]:
    """A row for each cell of the grid of which a seed is missing."""
    if board.grid is None:
        return []
    missing: dict[str, tuple[dict[str, Any], list[int], dict[int, str]]] = {}
    for job in board.grid.jobs():
        for defense in job.defenses:
            cell = job.config(defense)
            if board.has(cell, job.seed):
                continue
            columns = cell_columns(cell, defense.stage, defense.access)
            columns["not_applicable"] = why_not(defense, job.attack, job.reserve) or ""
            _, not_run, failed = missing.setdefault(json.dumps(columns), (columns, [], {}))
            error = board.error(cell, job.seed)
            if error is None:
                not_run.append(job.seed)
            else:
                failed[job.seed] = error
    return [
        {
            **columns,
            "not_run": "" if columns["not_applicable"] else show_seeds(not_run),
            "failed": "; ".join(f"seed {seed}: {error}" for seed, error in failed.items()),
        }
        for columns, not_run, failed in missing.values()
    ]


def _made(table: pd.DataFrame, gap: dict[str, Any]) -> dict[str, str]:
    """What the components of a cell without records are likely to be made of: what they are in the rows there are."""
    found = {}
    for kind in configs.KINDS:
        same = (table[kind] == gap[kind]) & (table[f"{kind}_parameters"] == gap[f"{kind}_parameters"])
        if kind == "model":
            same &= (table["dataset"] == gap["dataset"]) & (table["dataset_parameters"] == gap["dataset_parameters"])
        found[f"{kind}_made"] = str(table.loc[same, f"{kind}_made"].iloc[0]) if same.any() else "{}"
    return found
