"""The table from several sides: what is shown of it, in which order, and beside what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bdbench import foreign
from bdbench.components import configs
from bdbench.errors import unknown
from bdbench.grids.grid import Note
from bdbench.leaderboard import intervals
from bdbench.leaderboard.columns import (
    COUNTS,
    EXTRA,
    EXTRA_DIGITS,
    HEADINGS,
    NUMBERS,
    OF_ATTACKS,
    SHOWN,
    STAGES,
    extras,
)
from bdbench.leaderboard.frame import ATTACKED, rows_of
from bdbench.leaderboard.standing import NOT_TOLD_APART
from bdbench.leaderboard.summary import labelled

# The defense that is none, so that there is nothing to compare.
NO_DEFENSE = "none"
GROUNDS = ("dataset", "model", "reserve")
SETTING = (*GROUNDS, "budget")
_CONDITIONS = (*configs.KINDS, "stage", "access")
_MOST_FIRST = {
    "seeds", "ca_before", "asr_before", "ra_before", "ca_reference", "asr_reference", "control_ca", "bystanders_before",
    "psnr", "ssim", "model_auroc", "detections", "hits", "alarms",
}  # fmt: skip
# The digits of those that are shown as they are; all others are shares, in percent.
_PLAIN = {"model_auroc": 3, **{name: number.digits for name, number in NUMBERS.items() if not number.percent}}


def displayed(table: pd.DataFrame, bold: str = "{}") -> pd.DataFrame:
    """Every row of ``covered``, as text: short names, and numbers with their intervals.

    ``bold`` formats a number that is best in its column.
    """
    shown = labelled(table)
    for name in (*HEADINGS, *extras(table)):
        if f"{name}_low" in table:
            numbers = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            texts = [interval(value, low, high, name) for value, low, high in numbers]
            best = [name in names.split() for names in table["best"]]
            shown[name] = [bold.format(text) if b else text for text, b in zip(texts, best, strict=True)]
    shown["worst_asr_after"] = [_percent(v) for v in table["worst_asr_after"]]
    for name in COUNTS:
        shown[name] = [_count(k, n) for k, n in zip(table[name], table[f"{name}_of"], strict=True)]
    for name, digits in (("defense_seconds", 0), ("models_trained", 0), ("peak_memory_mb", 0), ("times_victim", 1)):
        shown[name] = [_rounded(v, digits) for v in table[name]]
    for name in ("craft_seconds", "poison_seconds"):
        shown[name] = [_rounded(v, 0) if not v < 1 else f"{_steady(v):.2g}" for v in table[name]]
    shown["seconds_per_input"] = ["-" if np.isnan(v) else f"{v:.2g}" for v in table["seconds_per_input"]]
    shown["rank"] = ["≈ best" if r == NOT_TOLD_APART else r or "-" for r in table["rank"]]
    shown["budget"] = [f"{100 * float(b):g} %" if b[:1].isdigit() else b for b in table["budget"]]
    shown["reserve"] = [f"{100 * r:g} %" for r in table["reserve"]]
    return shown.copy()  # in one piece again


def interval(value: float, low: float, high: float, name: str) -> str:
    """``x ± h``; ``x [low, high]`` where the interval ends with the values that there can be."""
    if np.isnan(value):
        return "-"
    scale, digits = (1, EXTRA_DIGITS) if name.startswith(EXTRA) else (1, _PLAIN[name]) if name in _PLAIN else (100, 1)
    text = f"{scale * value:.{digits}f}"
    if np.isnan(low):
        return text
    within = NUMBERS[name].within if name in NUMBERS else (-np.inf, np.inf)
    if (low <= within[0] and high >= within[1]) or abs((high - value) - (value - low)) > 1e-9:
        return f"{text} [{_end(scale * low, digits)}, {_end(scale * high, digits)}]"
    return f"{text} ± {scale * (high - low) / 2:.{digits}f}"


def _end(value: float, digits: int) -> str:
    """The end of an interval, with as many digits more as it takes to be another one than 0."""
    text = f"{value:.{digits}f}"
    return f"{value:.1g}" if value and not float(text) else text


def _count(k: int, n: int) -> str:
    """k of n, with Wilson's interval in percent."""
    if not n:
        return "-"
    low, high = intervals.wilson(k / n, n)
    return f"{k}/{n} [{100 * low:.0f}, {100 * high:.0f}]"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def _rounded(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{_steady(value):.{digits}f}"


def _steady(value: float) -> float:
    """Without a mean's last digits: they differ between versions of pandas, and with them which way a half goes."""
    return float(f"{value:.9g}")


def holds(table: pd.DataFrame, name: str) -> bool:
    """Whether a column has anything to show."""
    if name in COUNTS:
        return bool((table[f"{name}_of"] > 0).any())
    return bool((table[name] != "").any() if name == "rank" else table[name].notna().any())


def columns(table: pd.DataFrame, stage: str | None) -> dict[str, str]:
    """The headings of a stage's columns that hold anything, by column; None: of those on attacks."""
    if stage is None:
        return {name: HEADINGS[name] for name in OF_ATTACKS if holds(table, name)}
    own = {name: HEADINGS[name] for name in SHOWN[stage] if holds(table, name)}
    return own | {name: foreign.line(name.removeprefix(EXTRA)) for name in extras(table) if holds(table, name)}


def stages(table: pd.DataFrame) -> list[str]:
    """The stages that a table compares defenses of, in order."""
    return [stage for stage in STAGES if (table["defense"][table["stage"] == stage] != NO_DEFENSE).any()]


def attacks(table: pd.DataFrame) -> pd.DataFrame:
    """One row of ``covered`` for each attack on one ground: that of the defense with most seeds."""
    ran = table[(table["seeds"] > 0) & ~table["control"]]
    most = ran.sort_values("seeds", ascending=False, kind="stable").groupby(ATTACKED, sort=True).head(1)
    return most.sort_index()


def setting(row: dict[str, Any]) -> str:
    """A heading for the rows of ``displayed`` of one setting."""
    budget = f", budget {row['budget']}" if row["budget"] else ""
    return f"{ground(row)}{budget}"


def told(shown: pd.DataFrame, table: pd.DataFrame, notes: Iterable[Note]) -> list[str]:
    """What notes say of the attacks in rows of ``table``, which ``shown`` displays: a line each, in their order."""
    lines = []
    configs = [
        [{"name": row[kind], **json.loads(row[f"{kind}_parameters"])} for kind in ("attack", "dataset")]
        for row in rows_of(table)
    ]
    for note in notes:
        names = [name for name, (attack, data) in zip(shown["attack"], configs, strict=True) if note.fits(attack, data)]
        lines += [f"{', '.join(dict.fromkeys(names))}: {note.text}"] if names else []
    return lines


def variants(table: pd.DataFrame) -> list[str]:
    """Each defense of ``covered`` that has parameters, with all of them: a line each, by its short name."""
    names = labelled(table)["defense"]
    own = {name: json.loads(held) for name, held in zip(names, table["defense_parameters"], strict=True)}
    return [
        f"{name}: {', '.join(f'{key}={configs.shown(value)}' for key, value in held.items())}"
        for name, held in sorted(own.items())
        if held
    ]


def ground(row: dict[str, Any]) -> str:
    """A heading for the attacks in ``displayed`` of one ground."""
    return f"{row['dataset']}, {row['model']}, reserve {row['reserve']}"


def select(table: pd.DataFrame, where: Iterable[str], sort: str | None) -> pd.DataFrame:
    """The rows that fit conditions such as ``attack=blend`` or ``stage=repair``, best ``sort`` first.

    Conditions on one column are alternatives; a value is a component's name, or as much of its label as one
    likes. Raises BdbenchError for an unknown column, or a condition that fits no row.
    """
    names = labelled(table)
    keep = pd.Series(True, table.index)
    wanted: dict[str, pd.Series] = {}
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals or column not in _CONDITIONS:
            raise unknown("condition", condition, [f"{name}=..." for name in _CONDITIONS])
        fits = (names[column] + " ").str.startswith(f"{value} ")
        if not fits.any():
            raise unknown(column, value, set(names[column]))
        wanted[column] = wanted.get(column, ~keep) | fits
    for fits in wanted.values():
        keep &= fits
    table = table[keep]
    if sort is None:
        return table.reset_index(drop=True)
    numbers = [name for name in HEADINGS if name == "rank" or pd.api.types.is_numeric_dtype(table[name])]
    if sort not in numbers:
        raise unknown("number" if sort in HEADINGS else "column", sort, numbers)
    key = "beaten_by" if sort == "rank" else sort
    return table.sort_values(key, ascending=better(sort) < 0, kind="stable", ignore_index=True)


def better(name: str) -> int:
    """+1 if one looks for the most of a number first, else -1: the least of a rank or a cost."""
    return (NUMBERS[name].better if name in NUMBERS else 0) or (1 if name in _MOST_FIRST else -1)


def greyed(shown: pd.DataFrame, grey: str) -> pd.DataFrame:
    """``displayed`` with ``grey`` formatting every number of a row in which the attack does not work."""
    names = [name for name in HEADINGS if name not in ("attack", "defense", "seeds", "rank", "access")]
    names += extras(shown)
    fails = shown["works"] == "no"
    return shown.assign(
        **{name: shown[name].map(grey.format).where(fails & (shown[name] != "-"), shown[name]) for name in names}
    )


def matrix(shown: pd.DataFrame, name: str) -> pd.DataFrame:
    """A number of ``displayed``, attacks down and defenses across; a cell without records says why there are none.

    Attacks to which the number does not apply are left out. For a number after the defense a first column has the
    same before, over the seeds of the defense that has most.
    """
    nothing = np.select(
        [shown["not_applicable"] != "", shown["failed"] != ""], [shown["not_applicable"], "failed"], "not run"
    )
    values = shown[name].where(shown["seeds"] > 0, nothing)
    index = [*(column for column in SETTING if shown[column].nunique() > 1), "attack"]
    grid = shown.assign(value=values).pivot_table(
        index=index, columns="defense", values="value", aggfunc="; ".join, sort=True
    )
    grid = grid.fillna("not run").rename_axis(columns=None)
    grid = grid[(grid != "-").any(axis=1)]
    before = f"{name.removesuffix('_after')}_before"
    if name.endswith("_after") and before in HEADINGS:
        most = shown.sort_values("seeds", ascending=False, kind="stable").groupby(index)[before].first()
        grid.insert(0, "no defense", most.reindex(grid.index))
    return grid


def gaps(shown: pd.DataFrame) -> list[str]:
    """What is missing, in a line for each attack: the seeds that were not run or failed, what does not apply, and of
    which defenses.
    """
    lines = []
    for attack, rows in shown.groupby("attack"):
        notes: dict[str, list[str]] = {}
        for row in rows_of(rows):
            run = row["not_run"] and f"seeds {row['not_run']}"
            apply = row["not_applicable"] and f"does not apply: {row['not_applicable']}"
            if note := "; ".join(filter(None, [run, row["failed"], apply])):
                notes.setdefault(note, []).append(row["defense"])
        told = [
            f"{'every defense' if len(names) == len(rows) else ', '.join(names)} ({note})"
            for note, names in notes.items()
        ]
        if told:
            lines.append(f"{attack}: {', '.join(told)}")
    return lines
