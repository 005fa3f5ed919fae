"""Paired differences between cells: the same seeds, so that what the seeds share falls out of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdbench import record
from bdbench.errors import BdbenchError
from bdbench.store import key_of

# heading -> path in the record
_NUMBERS = {
    "CA before": ("before", "clean_accuracy"),
    "ASR before": ("before", "attack_success_rate"),
    "AUROC": ("detection", "auroc"),
    "AP": ("detection", "average_precision"),
    "TPR at budget": ("detection", "tpr_at_budget"),
    "FPR at budget": ("detection", "fpr_at_budget"),
    "TPR at 1 % FPR": ("detection", "tpr_at_1pct_fpr"),
    "CA after": ("after", "clean_accuracy"),
    "ASR after": ("after", "attack_success_rate"),
    "DER": ("derived", "defense_effectiveness_rating"),
}

_Cell = dict[int, Mapping[str, Any]]


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Every cell of the runs against that of the first one; runs that differ in their seeds alone are one cell.

    ``{"baseline": name, "cells": [{"cell": name, "differences": [...]}]}``; a difference holds the ``number``,
    the ``seeds`` that both cells have it for, both means over these, the mean ``difference`` (cell - baseline)
    and its 95 % interval ``low`` .. ``high``, Student's t over the seeds; None for a single one.

    Raises BdbenchError for a record that is not valid, a seed given twice, fewer than two cells, or no shared seed.
    """
    configs: dict[str, dict[str, Any]] = {}
    cells: dict[str, _Cell] = {}
    for run in runs:
        data = record.load(run)
        config = record.cell_of(data["config"])
        cell = cells.setdefault(key_of(config), {})
        configs[key_of(config)] = config
        if data["seed"] in cell:
            raise BdbenchError(f"{run}: seed {data['seed']} of {data['id']} is given twice: expected one run of each")
        cell[data["seed"]] = data
    if len(cells) < 2:
        raise BdbenchError("the runs differ in nothing but their seeds: expected runs of at least two cells")
    names = dict(zip(configs, _names(list(configs.values())), strict=True))
    first, *others = cells
    return {
        "baseline": names[first],
        "cells": [
            {"cell": names[key], "differences": _differences(cells[first], cells[key], names[key])} for key in others
        ],
    }


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each cell, of the components in which the cells differ."""
    parts = [record.labels([config[kind] for config in configs]) for kind in record.KINDS]
    told = [labels for labels in parts if len(set(labels)) > 1]
    budgets = [f"budget {config['budget']:g}" for config in configs]
    return [", ".join(names) for names in zip(*told, *([budgets] if len(set(budgets)) > 1 else []), strict=True)]


def _differences(baseline: _Cell, cell: _Cell, name: str) -> list[dict[str, Any]]:
    shared = sorted(baseline.keys() & cell.keys())
    if not shared:
        theirs = ", ".join(map(str, sorted(cell)))
        raise BdbenchError(f"{name} has seeds {theirs}: expected one of {', '.join(map(str, sorted(baseline)))}")
    rows = []
    for number, (part, key) in _NUMBERS.items():
        pairs = {seed: [record.number(data[seed], part, key) for data in (baseline, cell)] for seed in shared}
        pairs = {seed: pair for seed, pair in pairs.items() if None not in pair}
        if pairs:
            rows.append({"number": number, "seeds": list(pairs), **_paired(np.array(list(pairs.values()), float))})
    return rows


def _paired(pairs: np.ndarray) -> dict[str, float | None]:
    """pairs: (seeds, 2), the baseline's number and the cell's."""
    from scipy.stats import t

    n = len(pairs)
    differences = pairs[:, 1] - pairs[:, 0]
    mean = float(differences.mean())
    low = high = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5)
        low, high = mean - half, mean + half
    baseline, own = pairs.mean(0)
    return {"baseline": float(baseline), "mean": float(own), "difference": mean, "low": low, "high": high}
