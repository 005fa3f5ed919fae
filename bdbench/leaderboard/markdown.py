"""README.md of a leaderboard, and the parts of its table that a person asks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bdbench.board import Board
from bdbench.errors import unknown
from bdbench.leaderboard.coverage import covered
from bdbench.leaderboard.frame import frame_of
from bdbench.leaderboard.summary import summarise
from bdbench.leaderboard.views import HEADINGS, SETTING, columns, displayed, gaps, matrix, select

NOTE = """\
Accuracies and rates are in percent. Mean over seeds, and half the 95 % interval (Student's t over the seeds) after ±;
without ± there was one seed, or a number applies to one alone. Bold: better than every other defense against the
same attack, and the intervals lie apart. Rank: 1 + the number of defenses whose interval of DER lies wholly above;
those that cannot be told apart tie (=). An attack without ASR is the control: the same defense on the clean set,
and "CA cost, clean" is the accuracy it loses there. "p < 0.05": in how many percent of seeds the defense says that
the set is poisoned. Seconds and models are the defense's own, its retraining included; memory is the process's."""

# What a page has room for; table.csv and index.html have the rest.
_LEFT_OUT = ("der", "peak_memory_mb", "device")
_MATRICES = ("auroc", "asr_after")


def render(title: str, table: pd.DataFrame, picture: bool) -> str:
    """README.md: every data set, model and budget with its table, two of its numbers by attack and defense, and
    what was not run.
    """
    shown = displayed(table, bold="**{}**")
    parts = [f"# {title}", f"Made from `records/*.json` by `bdbench leaderboard build`; do not edit. {NOTE}"]
    parts.append("[index.html](index.html) is the same to sort and filter, with the records and commands behind it.")
    if picture:
        parts.append("![AUROC against the defense's seconds](cost.svg)")
    for (dataset, model, budget), group in shown.groupby(list(SETTING), sort=True):
        parts.append(f"## {dataset}, {model}, budget {budget}")
        headings = {n: heading for n, heading in columns(table.loc[group.index]).items() if n not in _LEFT_OUT}
        parts.append(_table(group[group["seeds"] > 0], headings))
        for name in _MATRICES:
            if name in headings:
                parts += [f"{HEADINGS[name]} by attack and defense:", _matrix(group, name)]
        missing = gaps(group)
        if missing:
            parts.append("Not run, or failed:\n\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


def part(
    folder: Path,
    *,
    where: Iterable[str] = (),
    sort: str | None = None,
    by: str | None = None,
    columns: str | None = None,
    matrix: str | None = None,
    as_csv: bool = False,
) -> str:
    """The rows of a leaderboard that fit ``where``, as Markdown or CSV; see ``views.select``. Raises BdbenchError.

    by: a table for each value of this column; columns: the shown ones, with commas; matrix: one number, attacks
    down and defenses across.
    """
    board = Board.read(folder)
    table = select(covered(summarise(frame_of(board)), board), where, sort)
    if as_csv:
        return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    shown = displayed(table, bold="**{}**")
    names = [*SETTING, *_chosen(table)] if columns is None else columns.split(",")
    for name in (*names, *([matrix] if matrix else [])):
        if name not in {*SETTING, *HEADINGS}:
            raise unknown("column", name, [*SETTING, *HEADINGS])
    headings = {name: HEADINGS.get(name, name) for name in names}
    parts = []
    for value, group in shown.groupby(by, sort=True) if by else [("", shown)]:
        body = _matrix(group, matrix) if matrix else _table(group[group["seeds"] > 0], headings)
        parts.append(f"## {value}\n\n{body}" if by else body)
    return "\n\n".join(parts) + "\n"


def _chosen(table: pd.DataFrame) -> list[str]:
    return list(columns(table))


def _table(shown: pd.DataFrame, headings: dict[str, str]) -> str:
    if not len(shown):
        return "not run"
    rows = shown[list(headings)].astype(str).to_numpy().tolist()
    return tabulate(rows, list(headings.values()), "github", disable_numparse=True)


def _matrix(shown: pd.DataFrame, name: str) -> str:
    return tabulate(matrix(shown, name).reset_index(), "keys", "github", disable_numparse=True, showindex=False)
