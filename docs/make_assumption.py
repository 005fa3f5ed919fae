"""Was the trigger the strongest feature, and was it found? Of runs of the datamodel detector, beside what a board says.

    python docs/make_assumption.py [--data-root DIR] [RUNS ...]

adds to docs/assumption.csv what it has not of the runs in these folders (``bdbench grid --out``; a run's networks are
taken from there), and writes its table into docs/results.md. AUROC and p-value are those of the committed boards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from making import with_table

import bdbench
from bdbench import Role, progress
from bdbench.components import configs
from bdbench_datamodel import strength, study
from bdbench_datamodel.strength import Strength

ROOT = Path(__file__).parent.parent
FILE, PAGE = ROOT / "docs" / "assumption.csv", ROOT / "docs" / "results.md"
BOARDS = ("goals", "detections", "digits", "cifar10-5k")
# What a reader wants to know of an attack, and the only parameters in which the boards' attacks differ.
SHOWN = ("rate", "targets", "mapping")
PLAIN = {"targets": 1, "mapping": "all-to-one"}
UNTOLD = "no group of its size"  # where a class is hardly larger than the poisons are many


def board_records() -> dict[str, tuple[str, dict[str, Any]]]:
    """By the fingerprint of the poisoned set: the last board that has it, and its record of the detector as it is."""
    found = {}
    for board in BOARDS:
        for file in (ROOT / "leaderboards" / board / "records").glob("*-datamodel-*.json"):
            data = json.loads(file.read_text())
            if data["config"]["defense"].get("score_by") == "auto" and not data["control"]:
                found[data["config"]["data"]["poisoned"]] = board, data
    return found


def learnt(roles: np.ndarray, masks: np.ndarray, margins: np.ndarray) -> float:
    """How often the detector's networks give a poison that they did not hold its label: the surrogates' own attack
    success, out of sample. masks: bool (m, n), which examples each held; margins: float32 (m, n).
    """
    poisons = roles == Role.POISON
    without = ~masks[:, poisons]
    return float(((margins[:, poisons] > 0) & without).sum() / without.sum())


def line(board: str, data: dict[str, Any], found: list[Strength], surrogate: float) -> dict[str, Any]:
    """A run's: strengths are margins a member, each with half its 95 % interval; surrogate: see ``learnt``."""
    trigger, natural = strength.rivals(found)
    assert trigger is not None
    attack = data["config"]["attack"]
    parts = [f"{name}={attack[name]:g}" if name != "mapping" else attack[name] for name in SHOWN if named(attack, name)]
    return {
        "board": board,
        "attack": " ".join([attack["name"], *parts]),
        "seed": data["seed"],
        "trigger": round(trigger.counted.value, 4),
        "trigger_half": round(trigger.counted.half, 4),
        "natural": round(natural.counted.value, 4) if natural else None,
        "natural_half": round(natural.counted.half, 4) if natural else None,
        "assumption": strength.assumption(trigger, natural) if natural else UNTOLD,
        "surrogate": round(surrogate, 3),
        "poisoned": data["config"]["data"]["poisoned"],
    }


def named(attack: dict[str, Any], name: str) -> bool:
    """Whether an attack's parameter is to be told."""
    return name in attack and attack[name] != PLAIN.get(name)


def runs_in(folders: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Of each run of the detector: its poisoned set, and its folder."""
    for folder in folders:
        for file in sorted(folder.glob("*-datamodel-*/record.json")):
            data = json.loads(file.read_text())
            if configs.parameters(data["config"]["defense"]).get("score_by") == "auto":
                yield data["config"]["data"]["poisoned"], file.parent


def table() -> str:
    """A row for each attack; AUROC, alarms and attack success are the boards' today."""
    boards = board_records()
    lines = pd.read_csv(FILE)
    lines = lines[lines["poisoned"].isin(boards)].copy()
    records = [boards[poisoned][1] for poisoned in lines["poisoned"]]
    lines["asr"] = [data["reference"]["attack_success_rate"] for data in records]
    lines["auroc"] = [data["detection"]["auroc"] for data in records]
    lines["alarm"] = [data["p_value"] < 0.05 for data in records]
    names = (
        "board",
        "attack",
        "sets",
        "ASR",
        "surrogates' ASR",
        "trigger",
        "natural",
        "Assumption 1",
        "AUROC",
        "p < .05",
    )
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (board, attack), own in lines.groupby(["board", "attack"]):
        counts = own["assumption"].value_counts()
        told = ", ".join(f"{name} {counts[name]}" for name in ("held", "undecided", "failed", UNTOLD) if name in counts)
        natural = "-" if own["natural"].isna().any() else f"{own['natural'].mean():.3f}"
        surrogates = "-" if own["surrogate"].isna().any() else f"{100 * own['surrogate'].mean():.0f} %"
        numbers = f"{100 * own['asr'].mean():.0f} % | {surrogates} | {own['trigger'].mean():.3f} | {natural}"
        rows.append(
            f"| {board} | {attack} | {len(own)} | {numbers} | {told} | {own['auroc'].mean():.3f} | "
            f"{own['alarm'].sum()} of {len(own)} |"
        )
    return "\n".join(rows) + "\n"


def page() -> str:
    """docs/results.md as it should be."""
    return with_table(PAGE, "assumption", table())


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data_root: Path | None, runs: tuple[Path, ...]) -> None:
    """Measure, and write."""
    boards = board_records()
    done = set(pd.read_csv(FILE)["poisoned"]) if FILE.exists() else set()
    left = {poisoned: run for poisoned, run in runs_in(runs) if poisoned in boards and poisoned not in done}
    with progress.bars() as bars:
        advance = bars.track(len(left), "runs")
        for poisoned, run in left.items():
            opened = bdbench.reopen(run, data_root=data_root, device="cpu")
            ensemble = study.ensemble(opened)
            surrogate = learnt(opened.poisoned.roles, *ensemble)
            made = pd.DataFrame([line(*boards[poisoned], study.measured(opened, *ensemble), surrogate)])
            made.to_csv(FILE, mode="a", header=not FILE.exists(), index=False)
            advance(1)
    lines = pd.read_csv(FILE).sort_values(["board", "attack", "seed"], kind="stable")
    # A set that a board no longer has was made by other code of its attack, or on another machine.
    lines[lines["poisoned"].isin(boards)].to_csv(FILE, index=False)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
