"""The figures of a report: arrays in, matplotlib figures out. No window, no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdbench import foreign
from bdbench.images.data import Role

COLOURS = {Role.CLEAN: "#0072b2", Role.POISON: "#d55e00", Role.COVER: "#e69f00"}
_GREY = "#888888"


def rendered(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the bytes of a picture file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return buffer.getvalue()


def examples(clean: np.ndarray, poisoned: np.ndarray, titles: Sequence[str]) -> Figure:
    """Pairs of images, both uint8 (m, H, W, C): clean above, poisoned in the middle, the amplified difference below."""
    amplified, gain = _amplified(clean, poisoned)
    figure = Figure(figsize=(1.15 * len(clean) + 1, 4), layout="constrained")
    axes = figure.subplots(3, len(clean), squeeze=False)
    for row, images in zip(axes, (clean, poisoned, amplified), strict=True):
        for axis, image in zip(row, images, strict=True):
            _image(axis, image)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(foreign.figure(title), fontsize=8)
    for axis, label in zip(axes[:, 0], ("clean", "poisoned", f"difference x {gain:.1f}"), strict=True):
        axis.set_ylabel(label, fontsize=8)
    return figure


def gallery(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], across: int = 8) -> Figure:
    """A pair of images for each name, uint8 (H, W, C): clean above, changed in the middle, its amplified difference
    below, each to its own full range.
    """
    down = -(-len(pairs) // across)
    figure = Figure(figsize=(1.25 * across, 3.9 * down), layout="constrained")
    axes = figure.subplots(3 * down, across, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (name, (clean, changed)) in enumerate(pairs.items()):
        amplified, gain = _amplified(clean, changed)
        top = axes[3 * (i // across) :, i % across]
        for axis, image in zip(top, (clean, changed, amplified), strict=False):
            axis.axis("on")
            _image(axis, image)
        top[0].set_title(foreign.figure(name), fontsize=8)
        top[2].set_xlabel(f"x {gain:.1f}", fontsize=7)
    return figure


def _amplified(clean: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, float]:
    """The difference to the full range around mid-grey, so that the faintest trigger is seen, and how much that is."""
    difference = changed.astype(float) - clean
    gain = float(127 / max(1.0, np.abs(difference).max()))
    return np.rint(127.5 + gain * difference).clip(0, 255).astype(np.uint8), gain


def flagged(images: np.ndarray, roles: np.ndarray, labels: np.ndarray) -> Figure:
    """The most suspicious images, in order: uint8 (m, H, W, C), each in a frame of its role's colour."""
    across = 10
    down = -(-len(images) // across)
    figure = Figure(figsize=(0.95 * across, 1.05 * down + 0.4), layout="constrained")
    for i, axis in enumerate(figure.subplots(down, across, squeeze=False).flat):
        if i >= len(images):
            axis.axis("off")
            continue
        _image(axis, images[i])
        colour = COLOURS[Role(roles[i])]
        for side in axis.spines.values():
            side.set(visible=True, color=colour, linewidth=4)
        axis.set_xlabel(foreign.figure(labels[i]), fontsize=7, color=colour)
    figure.legend(handles=_handles(roles), loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure


def histogram(scores: np.ndarray, roles: np.ndarray, threshold: float | None) -> Figure:
    """Scores (n,) by role, each role's counts on a log scale, and the budget's threshold, if there is one."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    bins = _bins(scores)
    for role in Role:
        if (roles == role).any():
            label = f"{role.name.lower()} ({np.count_nonzero(roles == role)})"
            axis.hist(scores[roles == role], bins, color=COLOURS[role], alpha=0.6, label=label)
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1, label="budget: removed to the right")
    axis.set(xlabel="score (higher: more suspicious)", ylabel="examples", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _bins(scores: np.ndarray) -> list[float]:
    """The edges of 60 bins; of fewer where floating point has none between the scores."""
    middle, reach = float(scores.mean()), float(np.ptp(scores)) / 2
    # So little apart, the scores are one bar.
    if reach <= 1e-9 * max(abs(middle), 1e-300):
        width = max(abs(middle), 1.0) / 2
        return np.linspace(middle - width, middle + width, 61).tolist()
    return np.histogram_bin_edges(scores, 60).tolist()


def curves(scores: np.ndarray, roles: np.ndarray, point: tuple[float, float] | None) -> Figure:
    """ROC and precision-recall of POISON against CLEAN, with the point (FPR, TPR) at the budget, if there is one."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    counted = roles != Role.COVER
    poison, scores = roles[counted] == Role.POISON, scores[counted]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    false_rate, true_rate, _ = roc_curve(poison, scores)
    left.plot(false_rate, true_rate, color=COLOURS[Role.POISON])
    left.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    if point is not None:
        left.plot(*point, "ko", markersize=5, label="at the budget")
        left.legend(frameon=False, fontsize=8)
    left.set(
        xlabel="false-positive rate", ylabel="true-positive rate", title=f"AUROC {roc_auc_score(poison, scores):.3f}"
    )
    precision, recall, _ = precision_recall_curve(poison, scores)
    right.step(recall, precision, where="post", color=COLOURS[Role.POISON])
    right.axhline(poison.mean(), color=_GREY, linestyle=":", linewidth=1)
    average = average_precision_score(poison, scores)
    right.set(xlabel="recall", ylabel="precision", title=f"average precision {average:.3f}", ylim=(0, 1.05))
    return figure


def before_and_after(rows: Mapping[str, tuple[float, float]]) -> Figure:
    """Bars of each accuracy before and after the defense, in percent."""
    figure = Figure(figsize=(5, 0.7 * len(rows) + 0.8), layout="constrained")
    axis = figure.subplots()
    for i, (before, after) in enumerate(rows.values()):
        for offset, value, colour, label in ((-0.2, before, _GREY, "before"), (0.2, after, "#009e73", "after")):
            axis.barh(i + offset, 100 * value, 0.38, color=colour, label=label if not i else None)
            axis.text(100 * value + 1, i + offset, f"{100 * value:.1f}", va="center", fontsize=8)
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), xlim=(0, 112), xlabel="%")
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cost(seconds: Mapping[str, float]) -> Figure:
    """Wall seconds of each stage."""
    figure = Figure(figsize=(5, 0.35 * len(seconds) + 0.7), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(list(seconds), list(seconds.values()), color="#56b4e9")
    axis.bar_label(bars, [f" {s:.1f}" for s in seconds.values()], fontsize=8)
    axis.set(xlabel="seconds", xlim=(0, 1.15 * max(seconds.values())))
    axis.invert_yaxis()
    return figure


def _image(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])


def _handles(roles: np.ndarray) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=COLOURS[role], label=role.name.lower()) for role in Role if (roles == role).any()]
