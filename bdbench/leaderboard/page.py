"""index.html of a leaderboard: one file, no network, usable without scripts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd

from bdbench import record, templates
from bdbench.grid import show_seeds
from bdbench.leaderboard.frame import CELL, rows_of
from bdbench.leaderboard.markdown import NOTE
from bdbench.leaderboard.summary import BETTER
from bdbench.leaderboard.views import HEADINGS, SETTING, columns, displayed

_SETTING = {"dataset": "data set", "model": "model", "budget": "budget"}
_FILTERS = {"dataset": "data set", "model": "model", "attack": "attack", "defense": "defense"}
_TEXT = (*record.KINDS, "budget", "oracles", "device")
# Of a single record, beside the link to it.
_OF_A_SEED = ("ca_before", "asr_before", "auroc", "ca_after", "asr_after", "defense_seconds")


def render(title: str, frame: pd.DataFrame, table: pd.DataFrame, picture: str) -> str:
    """The page of a leaderboard: ``frame`` its records, ``table`` its cells, ``picture`` an SVG or nothing."""
    shown = displayed(table)
    headings = {**_varied(shown, _SETTING), **columns(table)}
    records = defaultdict(list)
    for key, row in zip(frame[CELL].itertuples(index=False, name=None), rows_of(frame), strict=True):
        records[key].append(row)
    cells = []
    keys = table[CELL].itertuples(index=False, name=None)
    for i, (key, raw, text) in enumerate(zip(keys, rows_of(table), rows_of(shown), strict=True)):
        best = raw["best"].split()
        cells.append(
            {
                "index": i,
                "values": [_value(name, raw, text, name in best) for name in headings],
                "filters": {kind: text[kind] for kind in _FILTERS},
                "records": [_of_a_seed(r) for r in records[key]],
                "seeds": show_seeds(r["seed"] for r in records[key]),
                "not_run": raw["not_run"],
                "failed": raw["failed"],
            }
        )
    return templates.load("leaderboard.html").render(
        title=title,
        note=NOTE,
        settings=sorted({f"{d}, {m}, budget {b}" for d, m, b in shown[list(SETTING)].itertuples(index=False)}),
        headings=[(heading, _first(name)) for name, heading in headings.items()],
        textual=[heading for name, heading in headings.items() if name in _TEXT],
        filters={heading: (kind, sorted(set(shown[kind]))) for kind, heading in _varied(shown, _FILTERS).items()},
        of_a_seed=["seed", *(HEADINGS[name] for name in _OF_A_SEED)],
        cells=cells,
        picture=picture,
    )


def _varied(shown: pd.DataFrame, headings: dict[str, str]) -> dict[str, str]:
    """Those of the columns in which the rows differ."""
    return {name: heading for name, heading in headings.items() if shown[name].nunique() > 1}


def _first(name: str) -> int:
    """+1 if one looks for the most of a number first, else -1: the least of a rank or a cost."""
    return BETTER.get(name, 1 if name in ("seeds", "ca_before", "asr_before", "alarms") else -1)


def _value(name: str, raw: dict[str, Any], text: dict[str, Any], best: bool) -> dict[str, Any]:
    number = None if name in _TEXT and name != "budget" else raw[name]
    known = number is not None and not pd.isna(number)
    nothing = raw["seeds"] == 0 and name not in (*CELL, "seeds")
    return {
        "text": "not run" if nothing else text[name],
        "sort": f"{number:.6g}" if known else text[name] if name in _TEXT else "",
        "best": best,
    }


def _of_a_seed(row: dict[str, Any]) -> dict[str, Any]:
    numbers = [f"{row[name]:.4g}" if pd.notna(row[name]) else "-" for name in _OF_A_SEED]
    return {"file": row["file"], "seed": row["seed"], "numbers": numbers, "command": row["command"]}
