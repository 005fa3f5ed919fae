"""Pictures for the report of a run: the triggers that a model detector found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from bdbench import ModelDetector, Reopened, ReportSection, ReversedTrigger, State, Tools, Verdict

# Of a data set with many labels those that matter are shown: the flagged, then the first.
_ACROSS, _MOST = 8, 16


def sections(run: Reopened) -> list[ReportSection]:
    """The picture of what a model detector of this package kept; nothing of other defenses."""
    drawn = _DRAWN.get(run.defense.name)
    if drawn is None or run.record.verdict is None:
        return []
    pieces, _ = _saved(cast(ModelDetector, run.defense), run.tools())
    return [drawn(pieces, run.record.verdict.targets)]


def triggers(defense: ModelDetector, tools: Tools) -> list[ReversedTrigger]:
    """What a model detector of this package kept, picture by picture; nothing of other detectors."""
    shown = _SHOWN.get(defense.name)
    if shown is None:
        return []
    pieces, verdict = _saved(defense, tools)
    return list(shown(pieces, verdict.targets))


def _saved(defense: ModelDetector, tools: Tools) -> tuple[list[State], Verdict]:
    """What a detector saves, which is found again, or made again where it is gone; and what it says."""
    watched = _Watched(tools)
    verdict = defense.inspect(cast(Tools, watched))
    return watched.pieces, verdict


class _Watched:
    """Tools that remember the pieces that were asked for, in order."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.pieces: list[State] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tools, name)

    def saved(self, *args: Any, **options: Any) -> State:
        self.pieces.append(self._tools.saved(*args, **options))
        return self.pieces[-1]

    def saved_each(self, *args: Any, **options: Any) -> Any:
        for piece in self._tools.saved_each(*args, **options):
            self.pieces.append(piece)
            yield piece


def _patches(pieces: Sequence[State], targets: Sequence[int]) -> Iterator[ReversedTrigger]:
    for label in _chosen(len(pieces), targets):
        mask, pattern = pieces[label]["mask"], pieces[label]["pattern"]
        told = f"norm {mask.sum():.1f}, obeyed by {100 * float(pieces[label]['success']):.0f} % of the clean images"
        yield ReversedTrigger(label, f"mask, {told}", _pixels(mask[..., None]))
        yield ReversedTrigger(label, "what it lays over an image", _pixels((mask * pattern).transpose(1, 2, 0)))


def _surest(pieces: Sequence[State], targets: Sequence[int]) -> Iterator[ReversedTrigger]:
    for label in _chosen(len(pieces), targets):
        told = f"the image of which the model is surest, margin {float(pieces[label]['margin']):.1f}"
        yield ReversedTrigger(label, told, _pixels(pieces[label]["image"]))


def _changed(pieces: Sequence[State], targets: Sequence[int]) -> Iterator[ReversedTrigger]:
    (piece,) = pieces
    for i, (clean, made, label) in enumerate(zip(piece["clean"], piece["made"], piece["hits"], strict=False), 1):
        yield ReversedTrigger(int(label), f"clean image {i}", np.asarray(clean, np.uint8))
        yield ReversedTrigger(int(label), f"clean image {i} as the generator changes it", _pixels(made / 255))


def _led(pieces: Sequence[State], targets: Sequence[int]) -> Iterator[ReversedTrigger]:
    for label in _chosen(len(pieces), targets):
        piece = pieces[label]
        told = f"mixed value {float(piece['value']):.2f}, obeyed by {100 * float(piece['obeyed']):.0f} % of the images"
        for i, (clean, made) in enumerate(zip(piece["clean"], piece["made"], strict=True), 1):
            yield ReversedTrigger(label, f"clean image {i}", np.asarray(clean, np.uint8))
            yield ReversedTrigger(
                label, f"clean image {i} as the generator changes it, {told}", np.asarray(made, np.uint8)
            )


def _pixels(image: np.ndarray) -> np.ndarray:
    """Values in 0..1 as uint8."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _triggers(pieces: Sequence[State], targets: Sequence[int]) -> ReportSection:
    shown = {
        _title(label, targets, f"norm {pieces[label]['mask'].sum():.1f}"): [
            pieces[label]["mask"][..., None],
            (pieces[label]["mask"] * pieces[label]["pattern"]).transpose(1, 2, 0),
        ]
        for label in _chosen(len(pieces), targets)
    }
    caption = "For each label the mask, and what it lays over an image, so that clean images get the label."
    return ReportSection("Reversed triggers", _gallery(shown), caption)


def _margins(pieces: Sequence[State], targets: Sequence[int]) -> ReportSection:
    shown = {
        _title(label, targets, f"margin {float(pieces[label]['margin']):.1f}"): [pieces[label]["image"]]
        for label in _chosen(len(pieces), targets)
    }
    caption = "For each label the image, sought from noise, for which the model is surest of it."
    return ReportSection("Images of the largest margin", _gallery(shown), caption)


def _generated(pieces: Sequence[State], targets: Sequence[int]) -> ReportSection:
    (piece,) = pieces
    pairs = zip(piece["clean"] / 255, piece["made"] / 255, piece["hits"], strict=False)
    shown = {f"{i + 1}: taken for {label}": [clean, made] for i, (clean, made, label) in enumerate(pairs)}
    caption = "Clean images, and as the generator changes them to move what the task does not need."
    return ReportSection("Generated triggers", _gallery(shown), caption)


def _moved(pieces: Sequence[State], targets: Sequence[int]) -> ReportSection:
    shown = {
        _title(label, targets, f"value {float(pieces[label]['value']):.2f}"): [
            pieces[label][name][0] / 255 for name in ("clean", "made")
        ]
        for label in _chosen(len(pieces), targets)
    }
    caption = "For each label a clean image, and as the generator changes it so that a few features give it the label."
    return ReportSection("Images that a few features send to a label", _gallery(shown), caption)


def _chosen(count: int, targets: Sequence[int]) -> list[int]:
    first = [*targets, *(label for label in range(count) if label not in targets)]
    return sorted(first[:_MOST])


def _title(label: int, targets: Sequence[int], number: str) -> str:
    return f"{label}{' (flagged)' if label in targets else ''}: {number}"


def _gallery(shown: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A column of images (H, W, C) in 0..1 under each title, all with as many."""
    height = len(next(iter(shown.values())))
    down = -(-len(shown) // _ACROSS)
    figure = Figure(figsize=(1.5 * _ACROSS, (1.35 * height + 0.3) * down), layout="constrained")
    axes = figure.subplots(height * down, _ACROSS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (title, images) in enumerate(shown.items()):
        for row, image in enumerate(images):
            axis = axes[height * (i // _ACROSS) + row, i % _ACROSS]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title("" if row else title, fontsize=7)
    return figure


# By the name of the detector: one picture for a report, and picture by picture.
_DRAWN = {"neural-cleanse": _triggers, "mm-bd": _margins, "bti-dbf": _generated, "feature-re": _moved}
_SHOWN = {"neural-cleanse": _patches, "mm-bd": _surest, "bti-dbf": _changed, "feature-re": _led}
