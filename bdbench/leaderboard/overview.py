"""The tables of ``overall`` as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from bdbench.leaderboard import views
from bdbench.leaderboard.overall import Interval, Overall

NOTE = """\
Overall: the defenses that ran on every attack that works on the board, over those attacks and the seeds that they have
of all. Mean ASR and CA cost: of the attacks' means over seeds; worst ASR: the highest of these. Intervals: whole seeds
are drawn anew for all attacks together, since attacks share their random streams; at least as wide as the examples
behind the numbers ask for; none with fewer than 3 seeds. Stages are not averaged."""


HEADINGS = (
    "defense", "access", "budget", "attacks", "seeds", "mean ASR after", "worst ASR after", "worst attack",
    "mean CA cost",
)  # fmt: skip


@dataclass(frozen=True)
class Overview:
    """One stage in one setting. rows: as HEADINGS; missing: a line for each defense that is left out."""

    heading: str
    rows: list[tuple[str, ...]]
    missing: list[str]


def tables(table: pd.DataFrame, rows: Sequence[Overall]) -> Iterator[Overview]:
    """An overview for each stage and setting of ``rows``, which are of ``table``."""
    shown, compared = views.displayed(table), views.stages(table)

    def heading(one: Overall) -> str:
        row = shown.iloc[one.row]
        return f"{row['stage']}, {row['dataset']}, {row['model']}, reserve {row['reserve']}"

    for title, group in groupby((one for one in rows if table["stage"].iloc[one.row] in compared), heading):
        known = list(group)
        yield Overview(
            title,
            [_row(shown, one) for one in known if not one.missing],
            [_left_out(shown, one) for one in known if one.missing],
        )


def _row(shown: pd.DataFrame, one: Overall) -> tuple[str, ...]:
    row = shown.iloc[one.row]
    return (
        row["defense"],
        row["access"],
        row["budget"] or "-",
        str(one.attacks),
        str(one.seeds),
        _text(one.mean_asr, "asr_after"),
        _text(one.worst_asr, "asr_after"),
        shown["attack"].iloc[one.worst_attack],
        _text(one.mean_ca_cost, "ca_cost"),
    )


def _left_out(shown: pd.DataFrame, one: Overall) -> str:
    row = shown.iloc[one.row]
    budget = f" at budget {row['budget']}" if row["budget"] else ""
    attacks = ", ".join(shown["attack"].iloc[other] for other in one.missing)
    return f"{row['defense']}{budget} is left out: not against {attacks}"


def _text(number: Interval, name: str) -> str:
    return views.interval(number.value, number.low, number.high, name)
