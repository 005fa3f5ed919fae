"""The table from several sides: what is shown of it, in which order, and beside what."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from bdbench import record
from bdbench.errors import unknown
from bdbench.leaderboard.frame import rows_of
from bdbench.leaderboard.summary import BETTER, RIVALS, labelled

# The shown columns and their headings; those of numbers that no record has are left out.
HEADINGS = {
    "attack": "attack",
    "defense": "defense",
    "rank": "rank",
    "oracles": "oracles",
    "seeds": "seeds",
    "ca_before": "CA",
    "asr_before": "ASR",
    "auroc": "AUROC",
    "tpr_at_budget": "TPR at budget",
    "tpr_at_1pct_fpr": "TPR at 1 % FPR",
    "alarms": "p < 0.05",
    "ca_after": "CA after",
    "asr_after": "ASR after",
    "der": "DER",
    "control_ca_drop": "CA cost, clean",
    "defense_seconds": "seconds",
    "models_trained": "models",
    "peak_memory_mb": "memory MB",
    "device": "device",
}
SETTING = ("dataset", "model", "budget")


def displayed(table: pd.DataFrame, bold: str = "{}") -> pd.DataFrame:
    """Every row of ``covered``, as text: short names, and numbers with their intervals.

    Accuracies and rates are in percent. ``bold`` formats a number that is best in its column.
    """
    shown = labelled(table)
    for name in HEADINGS:
        if f"{name}_ci95" in table:
            texts = map(_with_interval, table[name], table[f"{name}_ci95"], [name] * len(table))
            best = [name in names.split() for names in table["best"]]
            shown[name] = [bold.format(text) if b else text for text, b in zip(texts, best, strict=True)]
    for name in ("defense_seconds", "models_trained", "peak_memory_mb"):
        shown[name] = table[name].map(_whole)
    shown["alarms"] = (100 * table["alarms"]).map(_whole)
    tied = table.groupby([*RIVALS, "rank"])["rank"].transform("size") > 1
    shown["rank"] = table["rank"].map(_whole) + tied.map({True: "=", False: ""})
    shown["budget"] = [f"{100 * b:g} %" for b in table["budget"]]
    return shown


def _with_interval(value: float, half: float, name: str) -> str:
    if np.isnan(value):
        return "-"
    scale, digits = (1, 3) if name in ("auroc", "ap", "der") else (100, 1)
    text = f"{scale * value:.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {scale * half:.{digits}f}"


def _whole(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f}"


def columns(table: pd.DataFrame) -> dict[str, str]:
    """The headings of the columns that hold anything, by column."""
    return {name: heading for name, heading in HEADINGS.items() if table[name].notna().any()}


def select(table: pd.DataFrame, where: Iterable[str], sort: str | None) -> pd.DataFrame:
    """The rows that fit conditions such as ``attack=blend`` or ``defense=datamodel``, best ``sort`` first.

    Conditions on one column are alternatives; a value is a component's name, or as much of its label as one
    likes. Raises BdbenchError for an unknown column, or a condition that fits no row.
    """
    names = labelled(table)
    keep = pd.Series(True, table.index)
    allowed = [*record.KINDS, "oracles"]
    wanted: dict[str, pd.Series] = {}
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals or column not in allowed:
            raise unknown("condition", condition, [f"{name}=..." for name in allowed])
        fits = (names[column] + " ").str.startswith(f"{value} ")
        if not fits.any():
            raise unknown(column, value, set(names[column]))
        wanted[column] = wanted.get(column, ~keep) | fits
    for fits in wanted.values():
        keep &= fits
    table = table[keep]
    if sort is None:
        return table.reset_index(drop=True)
    if sort not in HEADINGS:
        raise unknown("column", sort, HEADINGS)
    return table.sort_values(sort, ascending=BETTER.get(sort, -1) < 0, kind="stable", ignore_index=True)


def matrix(shown: pd.DataFrame, name: str) -> pd.DataFrame:
    """A number of ``displayed``, attacks down and defenses across; a cell without records says 'not run'.

    Attacks to which the number does not apply are left out. For a number after the defense a first column has the
    same before, over the seeds of the defense that has most.
    """
    values = shown[name].where(shown["seeds"] > 0, np.where(shown["failed"] != "", "failed", "not run"))
    index = [*(column for column in SETTING if shown[column].nunique() > 1), "attack"]
    grid = shown.assign(value=values).pivot(index=index, columns="defense", values="value")
    grid = grid.fillna("not run").rename_axis(columns=None)
    grid = grid[(grid != "-").any(axis=1)]
    before = f"{name.removesuffix('_after')}_before"
    if name.endswith("_after") and before in HEADINGS:
        most = shown.sort_values("seeds", ascending=False, kind="stable").groupby(index)[before].first()
        grid.insert(0, "no defense", most.reindex(grid.index))
    return grid


def gaps(shown: pd.DataFrame) -> list[str]:
    """What is missing, in a line for each attack: the seeds that were not run or failed, and of which defenses."""
    lines = []
    for attack, rows in shown.groupby("attack"):
        notes: dict[str, list[str]] = {}
        for row in rows_of(rows[(rows["not_run"] != "") | (rows["failed"] != "")]):
            note = "; ".join(filter(None, [row["not_run"] and f"seeds {row['not_run']}", row["failed"]]))
            notes.setdefault(note, []).append(row["defense"])
        told = [
            f"{'every defense' if len(names) == len(rows) else ', '.join(names)} ({note})"
            for note, names in notes.items()
        ]
        if told:
            lines.append(f"{attack}: {', '.join(told)}")
    return lines
