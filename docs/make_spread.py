"""How much a detector's AUROC hangs on its own seed: one poisoned set, one victim, and five seeds of each detector.

    python docs/make_spread.py [RUNS [NAME ...]]

measures what docs/spread.csv has not, and writes its table into docs/numbers.md. RUNS is a folder for the set and the
victim; NAME are detectors, none: all. One whose code has changed is measured again once its lines are gone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from making import with_table

import bdbench
from bdbench import BdbenchError, progress
from bdbench.cells import metrics
from bdbench.components.defenses import Detector
from bdbench.registry import plugins

DOCS = Path(__file__).parent
FILE, PAGE = DOCS / "spread.csv", DOCS / "numbers.md"
DATA, ATTACKS, SEED, SEEDS = "digits", ("badnets:rate=0.05", "blend:rate=0.05"), 100, range(5)
# The two ends hang on nothing, and art is another project's.
LEFT_OUT = ("random", "perfect-filter", "art")


def detectors() -> list[str]:
    """The detectors of the training set, by name."""
    known = plugins.installed().registered("defense")
    return [r.name for r in known if issubclass(r.component, Detector) and r.name not in LEFT_OUT]


def measured(name: str, run: bdbench.Reopened) -> list[float]:
    """The AUROC of a detector on a run's poisoned set, with each of the seeds."""
    view, roles = run.view, run.poisoned.roles
    reserve = run.clean.reserve
    told = {"clean_set": reserve} if "clean_set" in bdbench.detector(name).told else {}
    found = []
    for seed in SEEDS:
        scores = bdbench.detect(
            name, view.images, view.labels, num_classes=view.num_classes, model="convnet", victim=run.victim(),
            dataset=DATA, seed=seed, oracles=told,
        )  # fmt: skip
        ranking = metrics.rank(scores, np.random.default_rng(seed))
        auroc = metrics.detection(scores, ranking, roles, None).auroc
        assert auroc is not None
        found.append(auroc)
    return found


def measure(runs: Path, names: Sequence[str]) -> None:
    """Add to the file what it has not."""
    done = pd.read_csv(FILE)[["attack", "detector"]].values.tolist() if FILE.exists() else []
    for attack in ATTACKS:
        left = [name for name in names if [attack, name] not in done]
        if not left:
            continue
        record = bdbench.run(attack, "random", dataset=DATA, seed=SEED, out=runs)
        opened = bdbench.reopen(runs / record.id)
        with progress.bars() as bars:
            advance = bars.track(len(left), attack)
            for name in left:
                began = time.monotonic()
                try:
                    aurocs = measured(name, opened)
                except BdbenchError as error:  # a package that is not installed
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                seconds = round((time.monotonic() - began) / len(SEEDS), 1)
                line = {"attack": attack, "detector": name, "seconds": seconds}
                line |= {f"auroc_{seed}": round(value, 4) for seed, value in zip(SEEDS, aurocs, strict=True)}
                pd.DataFrame([line]).to_csv(FILE, mode="a", header=not FILE.exists(), index=False)
                advance(1)


def table() -> str:
    """What the page shows: of each attack the lowest, the middle and the highest AUROC of each detector."""
    found = pd.read_csv(FILE)
    values = found.filter(like="auroc_")
    found["shown"] = [
        f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f} - **{middle:.3f}** - {high:.3f}"
        for low, middle, high in zip(values.min(axis=1), values.median(axis=1), values.max(axis=1), strict=True)
    ]
    found["reach"] = values.max(axis=1) - values.min(axis=1)
    wide = found.pivot(index="detector", columns="attack", values="shown")
    order = found.groupby("detector")["reach"].max().sort_values(ascending=False, kind="stable").index
    return wide.loc[order, [a for a in ATTACKS if a in wide]].fillna("-").reset_index().to_markdown(index=False)


def page() -> str:
    """docs/numbers.md as it should be."""
    return with_table(PAGE, "spread", table())


@click.command()
@click.argument("runs", type=click.Path(file_okay=False, path_type=Path), default="runs")
@click.argument("names", nargs=-1)
def main(runs: Path, names: tuple[str, ...]) -> None:
    """Measure what is not measured yet, and write the table."""
    measure(runs, names or detectors())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
