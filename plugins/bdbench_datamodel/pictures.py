"""Figures of the detector: the matrix, and the strength of features. Arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bdbench_datamodel.strength import Strength

_PIXELS = 400
_COLOURS = {"trigger": "#d55e00", "class": "#0072b2", "cluster": "#56b4e9", "random": "#999999"}


def matrix(weights: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Figure:
    """W (n, n), its examples ordered by class and, in each, by falling score; large matrices by means of blocks."""
    order = np.lexsort((-scores, labels))
    ordered = weights[np.ix_(order, order)]
    picture = _shrunk(ordered)
    limit = float(np.quantile(np.abs(picture), 0.995)) or 1.0
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    extent = (0, len(labels), len(labels), 0)
    image = axis.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")
    starts = np.searchsorted(labels[order], np.unique(labels))
    middles = np.append(starts, len(labels))
    axis.set_xticks((middles[:-1] + middles[1:]) / 2, np.unique(labels))
    axis.set_yticks((middles[:-1] + middles[1:]) / 2, np.unique(labels))
    axis.set(xlabel="in the training set (by class, most suspicious first)", ylabel="whose margin moves")
    figure.colorbar(image, label="W: change of the margin", shrink=0.8)
    return figure


def strengths(found: Sequence[Strength]) -> Figure:
    """Left g(k) of the trigger and of the strongest of each other kind; right every group's strength by size."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, sizes = figure.subplots(1, 2)
    for kind, colour in _COLOURS.items():
        own = [s for s in found if s.kind == kind]
        if not own:
            continue
        strongest = max(own, key=lambda s: s.counted.value)
        if len(strongest.curve):
            k, mean, spread, _ = strongest.curve.T
            curves.errorbar(k, mean, spread, color=colour, marker="o", markersize=3, capsize=2, label=strongest.name)
        values, halves = [s.counted.value for s in own], [s.counted.half for s in own]
        sizes.errorbar(
            [s.size for s in own], values, halves, fmt="o", color=colour, markersize=4, capsize=2, label=kind
        )
    curves.set(xlabel="k: members in the training subset", ylabel="g(k): margin of members left out")
    sizes.set(xlabel="p: members in all", ylabel="k-strength at k = alpha p", xscale="log")
    sizes.axhline(0, color="black", linewidth=0.5)
    for axis in (curves, sizes):
        axis.legend(frameon=False, fontsize=8)
    return figure


def _shrunk(ordered: np.ndarray) -> np.ndarray:
    """At most 400 x 400: means over blocks of about equal size."""
    count = min(len(ordered), _PIXELS)
    edges = np.linspace(0, len(ordered), count + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(ordered, edges[:-1], 0, dtype=np.float64), edges[:-1], 1)
    widths = np.diff(edges)
    return sums / widths[:, None] / widths
