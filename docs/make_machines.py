"""What one cell gives on two machines: the victims of committed records that differ in the machine alone.

    python docs/make_machines.py

writes its table into docs/numbers.md: of every pair of machines (processor or GPU, precision, version of torch) and
data set, the differences of clean accuracy and attack success over the cells of which both trained a victim: on the
same poisoned set, and, where an attack is crafted by a network, on one that came out differently.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from making import with_table
from tabulate import tabulate

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "numbers.md"
HEADINGS = (
    "data set", "one machine", "another", "poisoned set", "pairs", "CA: mean", "sd", "largest", "ASR: mean", "sd",
    "largest",
)  # fmt: skip
# Fewer pairs tell nothing.
_FEWEST = 5


def machine(record: dict[str, Any]) -> str:
    """What a victim was trained by."""
    made = record["environment"]
    device = made["processor"] if made["device"] == "cpu" else made["device"].split(" 80GB")[0]
    return f"{device}, {made['precision']}, torch {'.'.join(made['versions']['torch'].split('.')[:2])}"


def victims() -> dict[str, dict[str, tuple[str, dict[str, float | None]]]]:
    """Each machine's poisoned set and what its victim did, by what it was made of and with."""
    found: dict[str, dict[str, tuple[str, dict[str, float | None]]]] = defaultdict(dict)
    for file in sorted((ROOT / "leaderboards").glob("*/records/*.json")):
        data = json.loads(file.read_text())
        config = data["config"]
        own = [config["data"]["fingerprint"], *(config[kind] for kind in ("recipe", "model", "attack"))]
        code = [config["code"][kind] for kind in ("model", "attack")]
        key = json.dumps([config["dataset"]["name"], *own, *code, data["seed"]], sort_keys=True)
        found[key].setdefault(machine(data), (config["data"]["poisoned"], data["before"]))
    return found


def moved(one: float | None, other: float | None) -> float:
    """How much a rate changed, in percentage points; NaN where nothing is attacked."""
    return np.nan if one is None or other is None else 100 * (other - one)


def table() -> str:
    """The differences, in percentage points."""
    pairs: dict[tuple[str, str, str, str], list[tuple[float, ...]]] = defaultdict(list)
    for key, by in victims().items():
        for one, other in itertools.combinations(sorted(by), 2):
            (ours, first), (theirs, second) = by[one], by[other]
            made = "the same" if ours == theirs else "crafted anew"
            pairs[json.loads(key)[0], one, other, made].append(
                tuple(moved(first[n], second[n]) for n in ("clean_accuracy", "attack_success_rate"))
            )
    rows = []
    for (dataset, one, other, made), found in sorted(pairs.items()):
        if len(found) >= _FEWEST:
            ca, asr = np.array(found, float).T
            rows.append([dataset, one, other, made, str(len(found)), *_told(ca), *_told(asr[~np.isnan(asr)])])
    return tabulate(rows, HEADINGS, "github", disable_numparse=True)


def _told(differences: np.ndarray) -> list[str]:
    """Their mean, deviation and largest; where hardly any is attacked there is nothing to tell."""
    if len(differences) < _FEWEST:
        return ["-"] * 3
    return [f"{n:.2f}" for n in (differences.mean(), differences.std(ddof=1), np.abs(differences).max())]


def page() -> str:
    """docs/numbers.md as it should be."""
    return with_table(PAGE, "machines", table())


if __name__ == "__main__":
    PAGE.write_text(page())
