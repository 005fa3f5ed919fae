"""What a leaderboard's grid asks for and its records do not give."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from bdbench import grid, record
from bdbench.board import Board
from bdbench.leaderboard.frame import CELL


def covered(table: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The table with a row of 0 seeds for each cell of the board's grid that has no record, sorted.

    Two new columns: ``not_run``, the seeds that the grid asks for and nobody ran, and ``failed``, the errors of
    those that were tried. Both are empty without a grid. Raises BdbenchError if the grid cannot be read.
    """
    gaps = pd.DataFrame(_gaps(board), columns=[*CELL, "not_run", "failed"])
    gaps = gaps.astype({name: table[name].dtype for name in CELL})
    table = table.merge(gaps, how="outer", on=CELL)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    return table.fillna(dict.fromkeys(("not_run", "failed", "best", "device"), "")).sort_values(
        CELL, kind="stable", ignore_index=True
    )


def _gaps(board: Board) -> list[dict[str, Any]]:
    """A row for each cell of the grid of which a seed is missing."""
    file = board.folder / "grid.toml"
    if not file.exists():
        return []
    missing: dict[tuple[Any, ...], tuple[list[int], dict[int, str]]] = {}
    for job in grid.read(file).jobs():
        for defense in job.defenses:
            cell = job.config(defense)
            if board.has(cell, job.seed):
                continue
            values = [v for kind in record.KINDS for v in _columns(cell[kind])]
            key = (*values, " ".join(defense.oracles) or "none", job.budget)
            not_run, failed = missing.setdefault(key, ([], {}))
            error = board.error(cell, job.seed)
            if error is None:
                not_run.append(job.seed)
            else:
                failed[job.seed] = error
    return [
        {
            **dict(zip(CELL, key, strict=True)),
            "not_run": grid.show_seeds(not_run),
            "failed": "; ".join(f"seed {seed}: {error}" for seed, error in failed.items()),
        }
        for key, (not_run, failed) in missing.items()
    ]


def _columns(component: dict[str, Any]) -> tuple[str, str]:
    return component["name"], json.dumps(record.parameters(component), sort_keys=True)
