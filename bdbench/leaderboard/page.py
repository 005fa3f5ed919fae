"""index.html of a leaderboard: one file, no network, usable without scripts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bdbench.components import configs
from bdbench.display import templates
from bdbench.grids.grid import show_seeds
from bdbench.leaderboard import overview, views
from bdbench.leaderboard.columns import COUNTS, HEADINGS, NUMBERS
from bdbench.leaderboard.frame import CELL, rows_of
from bdbench.leaderboard.markdown import NOTE
from bdbench.leaderboard.overview import Overview
from bdbench.leaderboard.views import SETTING, columns, displayed, interval

_SETTING = {"dataset": "data set", "model": "model", "reserve": "reserve", "budget": "budget"}
_FILTERS = {"dataset": "data set", "model": "model", "attack": "attack", "defense": "defense", "access": "access"}
_TEXT = (*configs.KINDS, "access", "device", "processor")
# Of a single record, beside the link to it.
_OF_A_SEED = (
    "ca_before", "asr_before", "auroc", "input_auroc", "score", "ca_after", "asr_after", "flagged", "defense_seconds",
)  # fmt: skip


def render(title: str, frame: pd.DataFrame, table: pd.DataFrame, overviews: Sequence[Overview], picture: str) -> str:
    """The page of a leaderboard: ``frame`` its records, ``table`` its cells, ``picture`` an SVG or nothing."""
    shown = displayed(table)
    records = defaultdict(list)
    for key, row in zip(frame[CELL].itertuples(index=False, name=None), rows_of(frame), strict=True):
        records[key].append(row)
    parts = {stage: (table["stage"] == stage).to_numpy() for stage in views.stages(table)}
    parts["attacks"] = table.index.isin(views.attacks(table).index)
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    headings = {}
    for part, own in parts.items():
        named = columns(table[own], None if part == "attacks" else part)
        headings[part] = {**_varied(shown[own], _SETTING), **named}
    keys = list(table[CELL].itertuples(index=False, name=None))
    raws, texts = rows_of(table), rows_of(shown)
    for part, i in [(part, i) for part, own in parts.items() for i in np.flatnonzero(own)]:
        key, raw, text = keys[i], raws[i], texts[i]
        best = [] if part == "attacks" else raw["best"].split()
        seen = [name for name in _OF_A_SEED if any(pd.notna(r[name]) for r in records[key])]
        cells[part].append(
            {
                "index": f"{part.replace(' ', '-')}-{i}",
                "values": [_value(name, raw, text, name in best) for name in headings[part]],
                "filters": {kind: text[kind] for kind in _FILTERS},
                "grey": raw["works"] == "no",
                "of_a_seed": ["seed", *(HEADINGS.get(name, name) for name in seen)],
                "records": [_of_a_seed(r, seen) for r in records[key]],
                "seeds": show_seeds(r["seed"] for r in records[key]),
                "not_run": raw["not_run"],
                "failed": raw["failed"],
                "not_applicable": raw["not_applicable"],
            }
        )
    return templates.load("leaderboard.html").render(
        title=title,
        note=NOTE.format(grey="Grey"),
        settings=sorted({views.setting(row) for row in rows_of(shown[list(SETTING)].drop_duplicates())}),
        stages=[
            {
                "name": stage,
                "headings": [(heading, views.better(name)) for name, heading in headings[stage].items()],
                "textual": [heading for name, heading in headings[stage].items() if name in _TEXT],
                "cells": cells[stage],
            }
            for stage in headings
        ],
        sortable=list(dict.fromkeys(heading for stage in headings.values() for heading in stage.values())),
        filters={heading: (kind, sorted(set(shown[kind]))) for kind, heading in _varied(shown, _FILTERS).items()},
        count=sum(map(len, cells.values())),
        overviews=overviews,
        overview_headings=overview.HEADINGS,
        overview_note=overview.NOTE,
        picture=picture,
    )


def _varied(shown: pd.DataFrame, headings: dict[str, str]) -> dict[str, str]:
    """Those of the columns in which the rows differ."""
    return {name: heading for name, heading in headings.items() if shown[name].nunique() > 1}


def _value(name: str, raw: dict[str, Any], text: dict[str, Any], best: bool) -> dict[str, Any]:
    nothing = raw["seeds"] == 0 and name not in (*CELL, "seeds")
    why = "does not apply" if raw["not_applicable"] else "not run"
    return {"text": why if nothing else text[name] or "-", "sort": _sort(name, raw, text), "best": best}


def _sort(name: str, raw: dict[str, Any], text: dict[str, Any]) -> str:
    """What a cell is sorted by: a number where there is one, "" where there is nothing."""
    if name in _TEXT:
        return str(text[name])
    number = raw["beaten_by"] if name == "rank" else raw[name]
    if name in COUNTS:
        number = number / raw[f"{name}_of"] if raw[f"{name}_of"] else None
    if name == "budget":
        return str(number)
    return f"{number:.6g}" if number is not None and not pd.isna(number) else ""


def _of_a_seed(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    numbers = [_plain(row[name], name) for name in names]
    return {"file": row["file"], "seed": row["seed"], "numbers": numbers, "command": row["command"]}


def _plain(value: float | None, name: str) -> str:
    """A number of one seed, as under the same heading of the table; what is in no table as it is."""
    if value is None or pd.isna(value):
        return "-"
    return interval(value, np.nan, np.nan, name) if name in NUMBERS else f"{value:.4g}"
