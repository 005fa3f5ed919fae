"""Means over seeds, how sure they are, and what can be said of who is better."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from bdbench import record
from bdbench.leaderboard.frame import CELL, NUMBERS

# The cells that are compared with each other: one attack on one data set, and every defense against it.
RIVALS = [name for name in CELL if name not in ("defense", "defense_parameters", "oracles")]
# The control of a cell: the same defense in the same setting, where nothing was attacked.
_SETTING = [name for name in CELL if name not in ("attack", "attack_parameters")]
# +1 where more is better, -1 where less is; the others tell of the attack or of the cost.
BETTER = {
    "auroc": 1, "ap": 1, "tpr_at_budget": 1, "fpr_at_budget": -1, "tpr_at_1pct_fpr": 1,
    "ca_after": 1, "asr_after": -1, "ra_after": 1, "der": 1,
}  # fmt: skip
RANKED_BY = "der"
ALARM = 0.05


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell of ``frame`` (see ``load``).

    Of every number the mean over seeds, and under ``<name>_ci95`` half its 95 % interval, Student's t over the
    seeds; with one seed there is none. Empty where nothing applies. ``alarms``: the share of seeds with
    p < 0.05. ``control_ca_drop``: what the same defense costs in clean accuracy where nothing is attacked.
    ``best``: the names of the numbers in which the cell's interval is better than, and apart from, that of every
    rival. ``rank``: 1 + the rivals whose interval of DER lies wholly above the cell's, so that cells that cannot
    be told apart tie.
    """
    frame = frame.assign(
        control_ca_drop=(frame["ca_before"] - frame["ca_after"]).where(frame["asr_before"].isna()),
        alarms=(frame["p_value"] < ALARM).where(frame["p_value"].notna()).astype(float),
    )
    groups = frame.groupby(CELL, sort=True, dropna=False)
    measured = [*NUMBERS, "control_ca_drop"]
    costs = ["shared_seconds", "defense_seconds", "models_trained", "peak_memory_mb"]
    mean = groups[[*measured, "alarms", *costs]].mean()
    half = _half_interval(groups[measured].std(ddof=1), groups[measured].count()).add_suffix("_ci95")
    order = [column for name in measured for column in (name, f"{name}_ci95")]
    about = groups.agg(seeds=("seed", "size"), device=("device", _joined))
    table = pd.concat([about, mean, half], axis=1)[["seeds", *order, "alarms", *costs, "device"]].reset_index()
    for column in ("control_ca_drop", "control_ca_drop_ci95"):
        table[column] = table.groupby(_SETTING, dropna=False)[column].transform("first")
    return pd.concat([table, _standing(table)], axis=1)


def _half_interval(deviation: pd.DataFrame, count: pd.DataFrame) -> pd.DataFrame:
    from scipy.stats import t

    quantiles = {n: t.ppf(0.975, n - 1) / n**0.5 if n > 1 else np.nan for n in np.unique(count)}
    return deviation * count.replace(quantiles).astype(float)


def _joined(values: pd.Series) -> str:
    return ", ".join(sorted(set(values)))


def _standing(table: pd.DataFrame) -> pd.DataFrame:
    """The columns ``best`` and ``rank``."""
    best: list[list[str]] = [[] for _ in range(len(table))]
    rank = np.full(len(table), np.nan)
    for rows in table.groupby(RIVALS, dropna=False).indices.values():
        for name, sign in BETTER.items():
            value, half = (table[c].to_numpy()[rows] for c in (name, f"{name}_ci95"))
            low, high = sign * value - half, sign * value + half
            beats = low[:, None] > high[None, :]
            if name == RANKED_BY:
                rank[rows] = np.where(np.isnan(low), np.nan, 1 + beats.sum(0))
            # Nobody is the best of one, or ahead of rivals whose interval is not known.
            leads = (beats | np.eye(len(rows), dtype=bool)).all(1) & (len(rows) > 1)
            for row in np.asarray(rows)[leads].tolist():
                best[row].append(name)
    return pd.DataFrame({"rank": rank, "best": [" ".join(names) for names in best]})


def _labels(table: pd.DataFrame, kind: str, always: tuple[str, ...] = ()) -> list[str]:
    names, parameters = table[kind], table[f"{kind}_parameters"]
    components = [{"name": n, **json.loads(p)} for n, p in zip(names, parameters, strict=True)]
    return record.labels(components, always)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with short names in place of the components' names, and no parameters."""
    always = {"dataset": ("subset",), "attack": ("rate",)}
    names = {kind: _labels(table, kind, always.get(kind, ())) for kind in record.KINDS}
    return table.assign(**names).drop(columns=[f"{kind}_parameters" for kind in record.KINDS])
