"""Draw docs/curves/*/curves.svg: AUROC against the number of networks, from the table.csv beside it.

The table holds what is drawn of the records that ``bdbench grid docs/curves/NAME/grid.toml`` makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from making import draw
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CURVES = Path(__file__).parent / "curves"
COLOURS = {
    "out-of-sample": "#d55e00",
    "all": "#e69f00",
    "covariance": "#0072b2",
    "ridge": "#56b4e9",
    "lasso": "#009e73",
    "trak": "#000000",
    "paper's score": "#cc79a7",
}
FLOORS = {"spectral": ":", "activation-clustering": "--"}
_ACROSS = 3


def point(attack: dict[str, Any], defense: dict[str, Any]) -> dict[str, Any]:
    """The panel, line and place on it (0: no ensemble) of a cell, from the configs of its attack and defense."""
    line = defense["name"]
    if line == "datamodel":
        line = "paper's score" if defense["score_by"] == "frequency" else defense["estimator"]
    return {"attack": f"{attack['name']} {100 * attack['rate']:g} %", "line": line, "models": defense.get("models", 0)}


def collect(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A row for each record: its point, seed, AUROC and commit."""
    rows = []
    for record in records:
        own = {
            "seed": record["seed"],
            "auroc": round(record["detection"]["auroc"], 6),
            "commit": record["environment"]["commit"],
        }
        rows.append({**point(record["config"]["attack"], record["config"]["defense"]), **own})
    return pd.DataFrame(rows).sort_values(["attack", "line", "models", "seed"])


def figure(table: pd.DataFrame) -> Figure:
    """One panel for each attack: means over seeds, and of the default estimator the worst and the best."""
    attacks = list(dict.fromkeys(table["attack"]))
    across = min(_ACROSS, len(attacks))
    down = -(-len(attacks) // across)
    drawn = Figure(figsize=(3.6 * across, 2.8 * down + 0.5), layout="constrained")
    panels = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axis in panels.flat[len(attacks) :]:
        axis.axis("off")
    for axis, attack in zip(panels.flat, attacks, strict=False):
        _panel(axis, attack, table[table["attack"] == attack])
    for axis in panels[:, 0]:
        axis.set_ylabel("AUROC")
    for axis in panels.flat[len(attacks) - across : len(attacks)]:
        axis.tick_params(labelbottom=True)
    lines = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(*lines, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return drawn


def _panel(axis: Axes, attack: str, table: pd.DataFrame) -> None:
    for line, colour in COLOURS.items():
        seeds = table[table["line"] == line].groupby("models")["auroc"].agg(["min", "mean", "max"])
        if len(seeds):
            axis.plot(seeds.index, seeds["mean"], color=colour, marker="o", markersize=3, label=line)
        if line == "out-of-sample":
            axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=colour, alpha=0.15, linewidth=0)
    for line, style in FLOORS.items():
        floor = table.loc[table["line"] == line, "auroc"]
        if len(floor):
            axis.axhline(float(floor.mean()), color="grey", linestyle=style, linewidth=1, label=line)
    axis.set(title=attack, xscale="log", xlabel="networks", ylim=(0, 1.02))


if __name__ == "__main__":
    for grid in sorted(CURVES.glob("*/grid.toml")):
        draw(grid, "curves.svg", collect, figure)
