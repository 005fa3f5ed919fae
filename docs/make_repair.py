"""Draw docs/repair/repair.svg, from table.csv there: what repairs leave of a backdoor, by their number of clean images.

The table holds what is drawn of the records that ``bdbench grid docs/repair/grid.toml`` makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from making import draw
from matplotlib.figure import Figure

SHARES = {"asr": "ASR after the repair", "accuracy": "clean accuracy after it"}
_KEYS = ["attack", "defense", "clean", "seed"]


def point(attack: dict[str, Any], defense: dict[str, Any]) -> dict[str, Any]:
    """The panel, line and place on it (0: needs no clean images) of a cell, from the configs of attack and defense."""
    return {"attack": attack["name"], "defense": defense["name"], "clean": defense.get("clean") or 0}


def collect(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A row for each record: its point, seed, ASR, accuracy and commit."""
    rows = []
    for record in records:
        after = record["after"] or record["before"]
        own = {
            "seed": record["seed"],
            "asr": round(after["attack_success_rate"], 6),
            "accuracy": round(after["clean_accuracy"], 6),
            "commit": record["environment"]["commit"],
        }
        rows.append({**point(record["config"]["attack"], record["config"]["defense"]), **own})
    return pd.DataFrame(rows).sort_values(_KEYS)


def figure(table: pd.DataFrame) -> Figure:
    """A column for each attack: ASR above, accuracy below, means over seeds; what needs no images is a level line."""
    attacks = sorted(set(table["attack"]))
    drawn = Figure(figsize=(4.2 * len(attacks), 6), layout="constrained")
    panels = drawn.subplots(len(SHARES), len(attacks), sharex=True, sharey="row", squeeze=False)
    means = table.groupby(["attack", "defense", "clean"])[list(SHARES)].mean().reset_index()
    for (down, across), axis in zip(pd.MultiIndex.from_product([SHARES, attacks]), panels.flat, strict=True):
        of_attack = means[means["attack"] == across]
        for i, (name, line) in enumerate(of_attack.groupby("defense")):
            if (line["clean"] == 0).all():
                style = ":" if name == "none" else "--"
                axis.axhline(float(line[down].iloc[0]), color="black", linestyle=style, linewidth=1, label=name)
            else:
                axis.plot(line["clean"], line[down], color=f"C{i}", marker="o", markersize=3, label=name)
        axis.set(xscale="log", ylim=(-0.02, 1.02))
    for axis, attack in zip(panels[0], attacks, strict=True):
        axis.set_title(attack)
    for axis, title in zip(panels[:, 0], SHARES.values(), strict=True):
        axis.set_ylabel(title)
    for axis in panels[-1]:
        axis.set_xlabel("clean images")
    lines = panels[0, 0].get_legend_handles_labels()
    drawn.legend(*lines, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return drawn


if __name__ == "__main__":
    draw(Path(__file__).parent / "repair" / "grid.toml", "repair.svg", collect, figure)
