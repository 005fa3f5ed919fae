"""README.md of a leaderboard, and the parts of its table that a person asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bdbench import foreign
from bdbench.components import configs
from bdbench.errors import BdbenchError, unknown
from bdbench.grids.board import Board
from bdbench.grids.grid import Note
from bdbench.leaderboard import overview, views
from bdbench.leaderboard.columns import HEADINGS
from bdbench.leaderboard.coverage import covered
from bdbench.leaderboard.frame import csv_of, frame_of, rows_of
from bdbench.leaderboard.overview import Overview
from bdbench.leaderboard.summary import summarise
from bdbench.leaderboard.views import GROUNDS, SETTING, displayed, gaps, greyed, matrix, select

NOTE = """\
Accuracies and rates are in percent. A row is one experiment: records of other data, another recipe, other files or
other code are rows of their own, and say which. Mean over seeds, and after ± half its 95 % interval: the larger of
Student's t over the seeds and of Wilson's over the examples behind all of them; [low, high] where it ends with 0 or
100; none with one seed. k/n [low, high]: Wilson's interval, in percent. Before: the victim; reference: plain training
by the stream that is used after removal. What removal and robust training did is measured against the reference, what a
repair or refused inputs did against the victim. Rivals are defenses of one stage with the same access, against the same
attack; they are compared by paired differences over at least 3 shared seeds of the same poisoned set, corrected for the
number of pairs (Holm). Bold: better than every rival that has the number. Rank, by DER without clips, as far as it is
the row's own: 1 if it beats all rivals; ≈ best: beaten by none, and not told apart from the best; else 1 + the number
of rivals that beat it. {grey}: the attack does not work there (the interval of ASR before reaches down to 50 or below,
or to what a clean model does, where one was tried), so that the row is not ranked.
"Flags" are what the defense itself would remove; their precision is over the seeds in which it flags anything.
"Clean": the same defense where nothing is attacked. "p < 0.05": in how many seeds the defense says that there is a
backdoor. "Target hits": of the seeds in which a name can be wrong. Seconds, memory and models are the defense's own,
the retraining for the budget included, and that for its flags where there is no budget; "x victim" are its seconds over
those that the cell's own victim took. Where several machines made a row, times and memory are those of the one with
most of its seeds ("timed_on" in table.csv; a GPU's name, or else the processor's, the threads, and the precision)."""

ATTACKS_NOTE = """\
Before any defense. Clean model: of the same recipe where nothing is poisoned, over the seeds that there are of it.
PSNR, SSIM, largest change: of attacked test images against what they were made of; the first two are means over the
first of them, of some 3 million values (where test images lie class by class, of one class or two), the last is in
grey levels. They are shares of no examples: their intervals are Student's alone. Seconds: to craft a trigger, and to
poison the training set and the challenge."""
_VARIANTS = """\
## Which variant it is

Every parameter of each defense above."""
_MISSING = "Not run, failed, or not to be run:\n\n"
# What a page has room for; table.csv and index.html have the rest.
_LEFT_OUT = ("der", "signed", "peak_memory_mb", "device")
_MATRICES = ("auroc", "input_auroc", "model_auroc", "asr_after")
_GREY = "*{}*"
# What records and errors say in their own words.
_FOREIGN = (*configs.KINDS, "access", "device", "processor", "failed", "not_applicable")


def render(
    title: str, table: pd.DataFrame, overviews: Sequence[Overview], picture: bool, notes: Sequence[Note] = ()
) -> str:
    """README.md: the attacks, with ``notes`` on them; every stage, data set, model and budget with its table, two of
    its numbers by attack and defense, and what was not run.
    """
    shown = _shown(table)
    made = "Made from `records/*.json` by `bdbench leaderboard build`; do not edit."
    parts = [f"# {foreign.markdown(title)}", f"{made} {NOTE.format(grey='In italics')}"]
    parts.append("[index.html](index.html) is the same to sort and filter, with the records and commands behind it.")
    if picture:
        parts.append("![AUROC against the defense's seconds](cost.svg)")
    for stage in views.stages(table):
        parts.append(f"## {_title(stage)}")
        of_stage = shown[shown["stage"] == stage]
        for _, group in of_stage.groupby(list(SETTING), sort=True):
            parts.append(f"### {views.setting(group.iloc[0].to_dict())}")
            headings = {n: h for n, h in views.columns(table.loc[group.index], stage).items() if n not in _LEFT_OUT}
            parts.append(_table(group[group["seeds"] > 0], headings))
            for name in _MATRICES:
                if name in headings:
                    parts += [f"{HEADINGS[name]} by attack and defense:", _matrix(group, name)]
            if missing := gaps(group):
                parts.append(_MISSING + "\n".join(f"- {line}" for line in missing))
    attacks = views.attacks(table)
    if len(attacks):
        parts += ["## Attacks", ATTACKS_NOTE]
    for _, group in attacks.groupby(list(GROUNDS), sort=True):
        parts.append(f"### {views.ground(shown.loc[group.index[0]].to_dict())}")
        parts.append(_table(shown.loc[group.index], views.columns(group, None)))
        if told := views.told(shown.loc[group.index], group, notes):
            parts.append("\n".join(f"- {line}" for line in told))
        if not views.stages(table) and (missing := gaps(shown[_same(shown, shown.loc[group.index[0]])])):
            parts.append(_MISSING + "\n".join(f"- {line}" for line in missing))
    for one in overviews:
        parts.append(f"## Overall: {foreign.markdown(one.heading)}")
        if one.rows:
            own = [overview.HEADINGS.index(name) for name in ("defense", "access", "worst attack")]
            rows = [[foreign.markdown(v) if i in own else v for i, v in enumerate(row)] for row in one.rows]
            parts.append(tabulate(rows, overview.HEADINGS, "github", disable_numparse=True))
        if one.missing:
            parts.append("\n".join(f"- {foreign.markdown(line)}" for line in one.missing))
    if overviews:
        parts.append(overview.NOTE)
    if variants := views.variants(table):
        parts += [_VARIANTS, "\n".join(f"- {foreign.markdown(line)}" for line in variants)]
    return "\n\n".join(parts) + "\n"


def summary(folder: Path) -> pd.DataFrame:
    """The whole table of a leaderboard, with what was not run. Raises BdbenchError."""
    board = Board.read(folder)
    return covered(summarise(frame_of(board)), board)


def part(
    whole: Path | pd.DataFrame,
    *,
    where: Iterable[str] = (),
    sort: str | None = None,
    by: str | None = None,
    columns: str | None = None,
    matrix: str | None = None,
    as_csv: bool = False,
) -> str:
    """The rows of a leaderboard that fit ``where``, as Markdown or CSV; see ``views.select``. Raises BdbenchError.

    A table for each stage. whole: the leaderboard's folder, or its ``summary``; by: and for each value of this column;
    columns: the shown ones, with commas; matrix: one number, attacks down and defenses across, of the stages that have
    it; where nobody defends, data sets across.
    """
    for one, other, both in (
        ("--csv", "--matrix", as_csv and matrix),
        ("--csv", "--columns", as_csv and columns),
        ("--csv", "--by", as_csv and by),
        ("--matrix", "--columns", matrix and columns),
        ("--matrix", "--sort", matrix and sort),
    ):
        if both:
            raise BdbenchError(f"{one} and {other} are both given: expected either")
    table = select(summary(whole) if isinstance(whole, Path) else whole, where, sort)
    if as_csv:
        return csv_of(table)
    shown = _shown(table)
    asked = None if columns is None else columns.split(",")
    for name in (*(asked or []), *([matrix] if matrix else [])):
        if name not in {*SETTING, *HEADINGS}:
            raise unknown("column", name, [*SETTING, *HEADINGS])
    parts = []
    stages: list[str] = views.stages(table)
    if matrix and not stages:
        if by:
            raise BdbenchError("--matrix and --by are both given, and nobody defends here: expected either")
        attacks = views.attacks(table).index
        return f"{_by_dataset(shown.loc[attacks if len(attacks) else table.index], matrix)}\n"
    if matrix:
        stages = [s for s in stages if matrix in views.columns(table[table["stage"] == s], s)] or stages[:1]
    shown_parts: list[str | None] = [*stages] or [None]  # where nobody defends, the attacks
    for stage in shown_parts:
        own = shown.loc[views.attacks(table).index] if stage is None else shown[shown["stage"] == stage]
        names = [*SETTING, *views.columns(table.loc[own.index], stage)] if asked is None else asked
        headings = {name: HEADINGS.get(name, name) for name in names}
        for value, group in own.groupby(by, sort=True) if by else [("", own)]:
            body = _matrix(group, matrix) if matrix else _table(group[group["seeds"] > 0], headings)
            heading = ", ".join(filter(None, [_title(stage) if stage and len(stages) > 1 else "", value]))
            parts.append(f"## {heading}\n\n{body}" if heading else body)
    return "\n\n".join(parts) + "\n"


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """``displayed`` as Markdown, in which names are nothing but names."""
    shown = displayed(table, bold="**{}**")
    return greyed(shown.assign(**{name: shown[name].map(foreign.markdown) for name in _FOREIGN}), _GREY)


def _same(shown: pd.DataFrame, row: pd.Series) -> pd.Series:
    """Which rows are on the ground of ``row``."""
    return (shown[list(GROUNDS)] == row[list(GROUNDS)]).all(axis=1)


def _title(stage: str) -> str:
    return stage[0].upper() + stage[1:]


def _table(shown: pd.DataFrame, headings: dict[str, str]) -> str:
    if not len(shown):
        return "not run"
    rows = shown[list(headings)].astype(str).to_numpy().tolist()
    return tabulate(rows, list(headings.values()), "github", disable_numparse=True)


def _matrix(shown: pd.DataFrame, name: str) -> str:
    """Below it a line says what some defenses are told more than others, and which there is nothing known of."""
    grid = matrix(shown, name)
    empty = [column for column in grid if (grid[column] == "not run").all()]
    empty = empty if len(empty) < len(grid.columns) else []
    more = {defense: told for defense, told in _told_more(shown).items() if defense in grid and defense not in empty}
    grid = grid.drop(columns=empty).rename(columns={defense: f"{defense} †" for defense in more})
    body = tabulate(grid.reset_index(), "keys", "github", disable_numparse=True, showindex=False)
    notes = [f"† is told more, and compared with those told as much: {_listed(more)}."] if more else []
    notes += [f"Not run: {', '.join(empty)}."] if empty else []
    return "\n\n".join([body, *([" ".join(notes)] if notes else [])])


def _by_dataset(shown: pd.DataFrame, name: str) -> str:
    """Attacks down and data sets across; a column tells its whole ground where one of a data set would not be alone."""
    alone = shown.groupby("dataset")[list(GROUNDS)].nunique().max(axis=1).eq(1)
    grounds = [row["dataset"] if alone[row["dataset"]] else views.ground(row) for row in rows_of(shown)]
    named = shown.assign(ground=grounds)
    grid = named.pivot_table(name, "attack", "ground", aggfunc=" / ".join, fill_value="-")
    return tabulate(grid.reset_index(), "keys", "github", disable_numparse=True, showindex=False)


def _told_more(shown: pd.DataFrame) -> dict[str, str]:
    """What defenses have access to that the least told of them have not, by their names; a floor has access to none."""
    access = {row["defense"]: set(row["access"].split(", ")) for row in rows_of(shown) if row["access"] != "none"}
    least: set[str] = set.intersection(*access.values()) if access else set()
    return {name: ", ".join(sorted(has - least)) for name, has in access.items() if has - least}


def _listed(more: dict[str, str]) -> str:
    by = {told: [name for name in more if more[name] == told] for told in more.values()}
    return "; ".join(f"{told} ({', '.join(names)})" for told, names in by.items())
