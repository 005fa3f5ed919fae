"""Paired differences between cells: the same seeds, so that what the seeds share falls out of the difference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.components import configs
from bdbench.errors import BdbenchError
from bdbench.leaderboard import columns, identity, intervals
from bdbench.storage import record
from bdbench.storage.store import key_of

_Cell = dict[int, Mapping[str, Any]]
# All numbers of a record, but what the stage is measured against, which is among them by its own name.
_COMPARED = {name: n for name, n in columns.NUMBERS.items() if n.path and not n.path.startswith("base.")}


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Every cell of the runs against that of the first one; runs that differ in their seeds alone are one cell.

    ``{"baseline": name, "cells": [{"cell": name, "differences": [...]}]}``; a difference holds the ``number``,
    the ``seeds`` that both cells have it for, both means over these, the mean ``difference`` (cell - baseline)
    and its 95 % interval ``low`` .. ``high``, None for a single one. Half of it is the larger of Student's t over the
    seeds and of what the examples behind the numbers ask for (Wilson's), since seeds that agree prove little by it.
    What both are measured against falls out of a difference of DER where it is the same on every seed. Cells of two
    stages are measured against two models, and have no difference of DER.

    Raises BdbenchError for a record that is not valid, records of two versions of the definitions or on two data sets,
    a seed given twice, fewer than two cells, or no shared seed.
    """
    cells: dict[str, _Cell] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    for run in runs:
        data = record.load(run)
        if first is None:
            first = (run, data)
        _check_comparable(run, data, *first)
        config = data["config"]
        cell = cells.setdefault(key_of({"cell": configs.cell_of(config), "made": identity.made(config)}), {})
        if data["seed"] in cell:
            raise BdbenchError(f"{run}: seed {data['seed']} of {data['id']} is given twice: expected one run of each")
        cell[data["seed"]] = data
    if len(cells) < 2:
        raise BdbenchError("the runs differ in nothing but their seeds: expected runs of at least two cells")
    baseline, *others = cells.values()
    name, *names = _names([next(iter(cell.values()))["config"] for cell in cells.values()])
    return {
        "baseline": name,
        "cells": [
            {"cell": own, "differences": _differences(baseline, cell, own)}
            for cell, own in zip(others, names, strict=True)
        ],
    }


def _check_comparable(run: Path, data: Mapping[str, Any], first: Path, other: Mapping[str, Any]) -> None:
    if data["definitions"] != other["definitions"]:
        raise BdbenchError(
            f"{run} is of version {data['definitions']} of the definitions, {first} of {other['definitions']}: "
            "expected runs of one, since two do not compare"
        )
    theirs, ours = (d["config"].get("data", {}).get("source", "") for d in (data, other))
    if theirs != ours:
        raise BdbenchError(
            f"{run} is of other data (source {theirs[:8]}) than {first} ({ours[:8]}): expected runs on one data set"
        )


def _names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each cell, of the components in which the cells differ."""
    made = [identity.made(config) for config in cells]
    parts = [
        identity.labels(
            [{"name": config[kind]["name"], **configs.parameters(config[kind])} for config in cells],
            [own[kind] for own in made],
            [json.dumps(config["dataset"]) for config in cells],
        )
        for kind in configs.KINDS
    ]
    told = [labels for labels in parts if len(set(labels)) > 1]
    for setting in ("budget", "reserve"):
        given = [config.get(setting) for config in cells]
        values = [f"no {setting}" if value is None else f"{setting} {value}" for value in given]
        told += [values] if len(set(values)) > 1 else []
    return [", ".join(names) for names in zip(*told, strict=True)]


def _differences(baseline: _Cell, cell: _Cell, name: str) -> list[dict[str, Any]]:
    shared = sorted(baseline.keys() & cell.keys())
    if not shared:
        theirs = ", ".join(map(str, sorted(cell)))
        raise BdbenchError(f"{name} has seeds {theirs}: expected one of {', '.join(map(str, sorted(baseline)))}")
    unlike = len({next(iter(side.values()))["stage"] for side in (baseline, cell)}) > 1
    rows = []
    for number, what in _COMPARED.items():
        if what.bases and unlike:
            continue
        pairs = {seed: [columns.value(data[seed], number) for data in (baseline, cell)] for seed in shared}
        pairs = {seed: pair for seed, pair in pairs.items() if None not in pair}
        if pairs:
            sides = [[side[seed] for seed in pairs] for side in (baseline, cell)]
            same = [
                columns.value(one, base) == columns.value(other, base)
                for one, other in zip(*sides, strict=True)
                for base in what.bases
            ]
            error = math.hypot(*(_error(side, number, all(same)) for side in sides))
            rows.append(
                {
                    "number": what.heading,
                    "seeds": list(pairs),
                    **_paired(np.array(list(pairs.values()), float), error),
                }
            )
    return rows


def _error(records: Sequence[Mapping[str, Any]], name: str, own: bool) -> float:
    """How far the mean of a number may be off, of the examples behind it: half an interval. own: see ``reaches``."""
    terms = columns.NUMBERS[name].terms or {name: 1.0}
    means, counts = {}, {}
    for term in terms:
        pool = columns.NUMBERS[term].pool
        known = [(columns.value(data, term), columns.pools(data).get(pool, 0)) for data in records]
        values = [v for v, _ in known if v is not None]
        means[term] = float(np.mean(values)) if values else 0.0
        counts[term] = sum(n for v, n in known if v is not None)
    return float(intervals.reaches(means, counts, name, own))


def _paired(pairs: np.ndarray, error: float) -> dict[str, float | None]:
    """pairs: (seeds, 2), the baseline's number and the cell's; error: the least half of the interval."""
    n = len(pairs)
    differences = pairs[:, 1] - pairs[:, 0]
    mean = float(differences.mean())
    low = high = None
    if n > 1:
        half = max(float(intervals.student(differences.std(ddof=1), n)), error)
        low, high = mean - half, mean + half
    baseline, own = pairs.mean(0)
    return {"baseline": float(baseline), "mean": float(own), "difference": mean, "low": low, "high": high}
