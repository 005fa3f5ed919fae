"""A closer look at what was marked: the classes that it resembles, and what its images have in common.

A model that is trained without the marked images says what each of them looks like without the trigger's help: where
labels were changed, that is the class that an image was taken from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.scanning.laboratory import Laboratory
from bdbench.scanning.reading import Read

SHOWN = 24
"""Images of a group that are shown."""
# Of ordinary images of a class so many tell what is usual.
_USUAL = 2000
_EPSILON = 1e-6


@dataclass(frozen=True)
class Group:
    """The marked images of one class. rows: int64 (k,), of what was read, the most suspicious first; label: theirs.

    resembled: the class that most of them look like without the trigger, None if that is their own; resembling: how
    many look like another class than their own; difference: float64 (H, W, C), their mean minus that of ordinary images
    of the classes that they resemble; agreement: float64 (H, W), in 0..1, how much less they differ among each other
    than ordinary images do; ordinary, others: rows of ordinary images of their class, and of the resembled one.
    """

    name: str
    label: int
    rows: np.ndarray
    resembled: int | None
    resembling: int | None
    difference: np.ndarray
    agreement: np.ndarray
    ordinary: np.ndarray
    others: np.ndarray


def look(found: Read, laboratory: Laboratory, flagged: np.ndarray, scores: np.ndarray) -> list[Group]:
    """The groups of what is marked, bool (n,), largest first. scores: float64 (n,), for the order within a group."""
    if not flagged.any():
        return []
    predictions = _without(laboratory, flagged)
    groups = []
    for label in np.unique(found.labels[flagged]):
        rows = np.flatnonzero(flagged & (found.labels == label))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        groups.append(_group(found, int(label), rows, flagged, None if predictions is None else predictions[rows]))
    return sorted(groups, key=lambda group: -len(group.rows))


def _without(laboratory: Laboratory, flagged: np.ndarray) -> np.ndarray | None:
    """What a model says of each image that never saw the marked ones, int64 (n,); None if too little is left."""
    labels = laboratory.view.labels
    left = np.unique(labels[~flagged])
    if len(left) < 2:
        return None
    model, _ = laboratory.trained(~flagged, "without", "train a model without what was marked")
    found = np.full(len(labels), -1)
    found[flagged] = model.predict(laboratory.view.images[flagged])
    return found


def _group(found: Read, label: int, rows: np.ndarray, flagged: np.ndarray, predicted: np.ndarray | None) -> Group:
    own = np.flatnonzero(~flagged & (found.labels == label))
    resembled = resembling = None
    weights = np.zeros(len(found.classes))
    if predicted is not None:
        weights += np.bincount(predicted, minlength=len(weights))
        resembling = int((predicted != label).sum())
        elsewhere = np.where(np.arange(len(weights)) == label, 0, weights)
        # Of images that a model takes for their own class by half there is nothing to say.
        if resembling > len(rows) / 2:
            resembled = int(elsewhere.argmax())
    else:
        weights[label] = 1
    others = np.flatnonzero(~flagged & (found.labels == resembled)) if resembled is not None else own[:0]
    mean, spread = _expected(found, weights, flagged)
    images = found.images[rows].astype(np.float64)
    return Group(
        name=found.classes[label],
        label=label,
        rows=rows,
        resembled=resembled,
        resembling=resembling,
        difference=images.mean(0) - mean,
        agreement=np.clip(1 - images.std(0).mean(2) / np.maximum(spread, _EPSILON), 0, 1),
        ordinary=own[:SHOWN],
        others=others[:SHOWN],
    )


def _expected(found: Read, weights: np.ndarray, flagged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (H, W, C) and deviation (H, W) of ordinary images, of classes in the shares of ``weights`` (K,)."""
    mean = np.zeros(found.images.shape[1:])
    spread, total = np.zeros(found.images.shape[1:3]), 0.0
    for label in np.flatnonzero(weights):
        rows = np.flatnonzero(~flagged & (found.labels == label))[:_USUAL]
        if len(rows):
            images = found.images[rows].astype(np.float32)
            mean += weights[label] * images.mean(0)
            spread += weights[label] * images.std(0).mean(2)
            total += weights[label]
    return mean / max(total, _EPSILON), spread / max(total, _EPSILON)
