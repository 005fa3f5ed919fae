"""The pictures of a scan's report: arrays in, data URLs out, so that the page needs nothing but itself."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from bdbench import foreign
from bdbench.display import pictures, templates
from bdbench.images.decoding import encoded

_BLUE, _RED, _BINS = "#0072b2", "#d55e00", 60


def image(pixels: np.ndarray) -> str:
    """uint8 (H, W, 1 or 3) as it is."""
    return templates.picture(encoded(pixels))


def amplified(difference: np.ndarray) -> tuple[str, float]:
    """A difference, float (H, W, C), around mid-grey to its full range, and how much it was amplified."""
    gain = float(127 / max(1.0, np.abs(difference).max()))
    return image(np.rint(127.5 + gain * difference).clip(0, 255).astype(np.uint8)), gain


def heat(values: np.ndarray) -> str:
    """float (H, W) in 0..1 from black over red and yellow to white."""
    from matplotlib import colormaps

    return image((colormaps["hot"](values)[..., :3] * 255).astype(np.uint8))


def histogram(scores: np.ndarray, flagged: np.ndarray | None, title: str) -> str:
    """Scores (n,), with what was marked, bool (n,), in another colour; counts on a log scale."""
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axis = figure.subplots()
    marked = np.zeros(len(scores), bool) if flagged is None else flagged
    edges = np.histogram_bin_edges(scores, _BINS)
    parts = [scores[~marked], scores[marked]]
    labels = [f"not marked ({len(parts[0])})", f"marked ({len(parts[1])})"]
    axis.hist(parts, edges.tolist(), stacked=True, color=[_BLUE, _RED], label=labels)
    axis.set(xlabel="score (higher: more suspicious)", ylabel="images", yscale="log", title=foreign.figure(title))
    # From below one: else the smallest bar has no height, and what was marked is seldom many.
    axis.set_ylim(bottom=0.5)
    axis.legend(frameon=False, fontsize=8)
    return templates.picture(pictures.rendered(figure))


def classes(strengths: dict[str, float], marked: set[str], what: str) -> str:
    """What speaks against each class, the most on top; what: that in words; marked: those in another colour."""
    order = sorted(strengths, key=lambda name: strengths[name])
    figure = Figure(figsize=(5, 0.6 + 0.24 * len(order)), layout="constrained")
    axis = figure.subplots()
    colours = [_RED if name in marked else _BLUE for name in order]
    axis.barh([foreign.figure(name)[:30] for name in order], [strengths[name] for name in order], color=colours)
    axis.set(xlabel=foreign.figure(what))
    axis.tick_params(labelsize=8)
    return templates.picture(pictures.rendered(figure))
