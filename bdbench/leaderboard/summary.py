"""Means over seeds, and how sure they are: a row for each cell."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bdbench import foreign
from bdbench.components import configs
from bdbench.leaderboard import identity, intervals, standing, verdicts
from bdbench.leaderboard.columns import NUMBERS, extras
from bdbench.leaderboard.frame import CELL, COSTS, DEFENDED

ALARM = 0.05
# An attack works where the lower end of the interval of ASR before is above this, and above a clean model's upper end.
WORKS = 0.5


@dataclass(frozen=True)
class BySeed:
    """The records of a table by row and seed: float64 (rows, seeds) each, NaN where there is none.

    values: of each number of NUMBERS, and of a verdict's score, accused, hit; counts: the examples it is a share of.
    sets: int64 (rows, seeds), a number for each poisoned set and its challenge.
    """

    seeds: list[int]
    values: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    sets: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> BySeed:
        """The rows are those of ``summarise``."""
        row = frame.groupby(CELL, sort=True).ngroup().to_numpy()
        seeds, seed = np.unique(frame["seed"], return_inverse=True)

        def spread(column: pd.Series) -> np.ndarray:
            out = np.full((row.max() + 1, len(seeds)), np.nan)
            out[row, seed] = column.to_numpy(float)
            return out

        values = {name: spread(frame[name]) for name in [*NUMBERS, "p_value", "score", "accused", "hit"]}
        pools = {n.pool: spread(frame[f"{n.pool} pool"]) for n in NUMBERS.values() if n.pool}
        counts = {
            name: np.where(np.isnan(values[name]), 0.0, pools[number.pool])
            for name, number in NUMBERS.items()
            if number.pool
        }
        sets = np.nan_to_num(spread(pd.Series(pd.factorize(frame["tried_on"])[0])), nan=-1).astype(int)
        return cls(seeds.tolist(), values, counts, sets)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell of ``frame`` (see ``load``), which is one experiment: what it was made of is part of it.

    Of every number the mean over seeds and, under ``<name>_low`` and ``<name>_high``, its 95 % interval: half its width
    is the larger of Student's t over the seeds and the reach of Wilson's interval over the examples of all seeds; it
    ends where the number does. With one seed there is none. Empty where nothing applies.

    works: "yes" or "no", whether the attack does before any defense; "" where nothing is attacked. worst_asr_after: of
    the seeds. alarms: in how many seeds p < 0.05, of alarms_of. control_ca, control_ca_cost, control_flagged: of the
    same defense in the same setting where nothing is attacked. For model detectors see ``verdicts``, for rank and best
    ``standing``. Seconds and memory are means over the seeds of one machine, timed_on: that of most seeds of the row.
    """
    groups = frame.groupby(CELL, sort=True)
    table = groups.agg(
        control=("control", "first"),
        made_of=("made_of", "first"),
        seeds=("seed", "size"),
        device=("device", _joined),
        processor=("processor", _joined),
        torch=("torch", _joined),
    )
    table = table.join(_costs(frame)).join(_extras(frame)).reset_index()
    by_seed = BySeed.of(frame)
    numbers = _numbers(by_seed)
    p_values = by_seed.values["p_value"]
    table = pd.concat([table, numbers], axis=1)
    table["worst_asr_after"] = frame.assign(worst=frame["asr_after"]).groupby(CELL, sort=True)["worst"].max().to_numpy()
    table["alarms"], table["alarms_of"] = (p_values < ALARM).sum(1), (~np.isnan(p_values)).sum(1)
    table["works"] = _works(table, by_seed)
    control = _control(table)
    of_control = {"control_ca": "ca_before", "control_ca_cost": "ca_cost", "control_flagged": "flagged"}
    for name, of in of_control.items():
        for end in ("", "_low", "_high"):
            table[name + end] = _taken(table[of + end].to_numpy(float), control)
    table = pd.concat([table, verdicts.judged(by_seed.values, control, table["control"].to_numpy(bool))], axis=1)
    return pd.concat([table, standing.standing(table, by_seed.values, by_seed.counts, by_seed.sets)], axis=1)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with short names in place of the components' names, parameters, and what they were made of."""
    always = {"dataset": ("subset",), "attack": ("rate",)}
    names: dict[str, list[str]] = {}
    for kind in configs.KINDS:
        components = [
            {"name": n, **json.loads(p)} for n, p in zip(table[kind], table[f"{kind}_parameters"], strict=True)
        ]
        made = [json.loads(m) for m in table[f"{kind}_made"]]
        # A model's recipe is its own for each data set.
        beside: list[Hashable] = list(names["dataset"]) if kind == "model" else [""] * len(table)
        labels = identity.labels(components, made, beside, always.get(kind, ()))
        names[kind] = [foreign.line(label) for label in labels]
    spent = [f"{kind}_{part}" for kind in configs.KINDS for part in ("parameters", "made")]
    return table.assign(**names).drop(columns=spent)


def _numbers(by_seed: BySeed) -> pd.DataFrame:
    """The mean of every number, and the ends of its interval."""
    counts = {name: count.sum(1) for name, count in by_seed.counts.items()}
    means, halves = {}, {}
    for name in NUMBERS:
        values = by_seed.values[name]
        n = (~np.isnan(values)).sum(1)
        total = np.nansum(values, 1)
        means[name] = np.where(n > 0, total / np.maximum(n, 1), np.nan)
        square = np.nansum((values - means[name][:, None]) ** 2, 1)
        halves[name] = intervals.student(np.sqrt(square / np.maximum(n - 1, 1)), n)
    columns = {}
    for name, number in NUMBERS.items():
        # NaN stays NaN: one seed has no interval.
        half = np.maximum(halves[name], intervals.reaches(means, counts, name))
        columns[name] = means[name]
        columns[f"{name}_low"], columns[f"{name}_high"] = intervals.ends(means[name], half, number.within)
    return pd.DataFrame(columns)


def _works(table: pd.DataFrame, by_seed: BySeed) -> np.ndarray:
    asr = table["asr_before"].to_numpy(float)
    alone, _ = intervals.wilson(asr, by_seed.counts["asr_before"].sum(1))
    _, floor = intervals.wilson(table["asr_floor"].to_numpy(float), by_seed.counts["asr_floor"].sum(1))
    low = np.where(table["seeds"] > 1, table["asr_before_low"], alone)
    # Of several seeds one alone may know the floor.
    floors = (~np.isnan(by_seed.values["asr_floor"])).sum(1)
    floor = np.fmax(WORKS, np.where(floors > 1, table["asr_floor_high"], floor))
    return np.where(np.isnan(asr) | table["control"], "", np.where(low > floor, "yes", "no"))


def _control(table: pd.DataFrame) -> np.ndarray:
    """For each row the row of its control, int64 (rows,); -1 if there is none."""
    group = table.groupby(DEFENDED).ngroup().to_numpy()
    found = np.full(group.max() + 1, -1)
    # Of several, which differ in the code of the control itself, the first.
    for row in np.flatnonzero(table["control"].to_numpy(bool))[::-1]:
        found[group[row]] = row
    return found[group]


def _taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, values[rows], np.nan)


def _costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Means of COSTS by cell, over the seeds of the machine that made most: a mean over two is the time of neither."""
    threads = " x" + frame["device"].str.rpartition(" x")[2]
    machine = (frame["processor"] + threads).where(frame["device"].str.startswith("cpu"), frame["device"])
    timed = frame.assign(timed_on=machine + ", " + frame["precision"])
    counted = timed.groupby([*CELL, "timed_on"], sort=True).size()
    chosen = counted.groupby(CELL, sort=True).idxmax().to_list()
    own = timed.set_index([*CELL, "timed_on"]).sort_index().loc[chosen].reset_index("timed_on")
    groups = own.groupby(CELL, sort=True)
    return groups.agg(timed_on=("timed_on", "first"), **{name: (name, "mean") for name in COSTS})


def _extras(frame: pd.DataFrame) -> pd.DataFrame:
    """Means of what metrics of plugins gave by cell, with Student's interval: of what it is a share nobody knows."""
    groups = frame.groupby(CELL, sort=True)
    columns: dict[str, pd.Series] = {}
    for name in extras(frame):
        mean, half = groups[name].mean(), intervals.student(groups[name].std(), groups[name].count())
        columns |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
    return pd.DataFrame(columns, index=groups.size().index)


def _joined(values: pd.Series) -> str:
    return ", ".join(sorted(set(values)))
