"""Draw docs/curves.svg: AUROC against the number of networks, from the records in docs/curves."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "curves" / "records"
COLOURS = {"out-of-sample": "#d55e00", "covariance": "#0072b2", "frequency": "#cc79a7"}
FLOORS = {"spectral": ":", "activation-clustering": "--"}


def line_of(defense: dict[str, Any]) -> str:
    """What a record's defense belongs to: an estimator, the paper's score, or another defense."""
    if defense["name"] != "datamodel":
        return str(defense["name"])
    return "frequency" if defense["score_by"] == "frequency" else str(defense["estimator"])


def means() -> dict[str, dict[str, dict[int, list[float]]]]:
    """AUROC over seeds by attack, line and number of networks (0: no ensemble)."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        defense, attack = record["config"]["defense"], record["config"]["attack"]
        name = f"{attack['name']} {100 * attack['rate']:g} %"
        found[name][line_of(defense)][defense.get("models", 0)].append(record["detection"]["auroc"])
    return found


def figure() -> Figure:
    """One panel for each attack; the mean over seeds, and the range between the worst and the best."""
    found = means()
    drawn = Figure(figsize=(3.4 * len(found), 3.2), layout="constrained")
    for axis, (attack, lines) in zip(
        drawn.subplots(1, len(found), sharey=True, squeeze=False)[0], found.items(), strict=True
    ):
        for line, colour in COLOURS.items():
            points = sorted(lines[line].items())
            if not points:
                continue
            x, low, mean, high = np.array([(m, min(v), np.mean(v), max(v)) for m, v in points]).T
            label = "paper's score" if line == "frequency" else line
            axis.plot(x, mean, color=colour, marker="o", markersize=3, label=label)
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for line, style in FLOORS.items():
            if lines[line]:
                axis.axhline(np.mean(lines[line][0]), color="black", linestyle=style, linewidth=1, label=line)
        axis.set(title=attack, xscale="log", xlabel="networks", ylim=(0, 1.02))
    drawn.axes[0].set_ylabel("AUROC")
    drawn.legend(
        *drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8
    )
    return drawn


if __name__ == "__main__":
    figure().savefig(ROOT / "docs" / "curves.svg", metadata={"Date": None})
