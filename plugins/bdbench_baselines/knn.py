"""Deep k-NN: the neighbours of a poison, in the model's features, bear another label than it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView, param

# Distances that are held at once; and what single precision makes of equal ones, relative to the squared lengths.
_PAIRS, _ROUNDING = 2**23, 1e-6


@dataclass(frozen=True, kw_only=True)
class DeepKNN(Detector):
    """The share of an example's k nearest neighbours that have another label; k is relative to its label's size.

    As in the paper, neighbours are nearest in Euclidean distance of the penultimate features, and an example
    is flagged if its own label is not the most frequent among them, or one of several such. k is ``k`` times the number
    of examples of its label, the paper's *normalised k*: 1 is the 5,000 of its CIFAR-10 sets. Where the authors' code
    counts the example as a neighbour of its own, here it is none, so that a label of one example is always suspect; and
    all that are as far as the k-th count as neighbours, so that chance and order decide nothing. ``balance`` has each
    neighbour vote with one over its label's size, which does what the authors' copies of examples of small labels do.
    """

    name = "knn"
    paper = "Peri et al., Deep k-NN Defense Against Clean-label Data Poisoning Attacks, ECCV Workshops 2020"
    assumption = (
        "In the features poisons lie among the examples of another label than the one that they bear, and are fewer "
        "than these."
    )
    k: float = param(1.0, help="neighbours / the examples of the label", low=0, exclusive=True)
    balance: bool = param(False, help="neighbours vote with one over the size of their label")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The share of votes for other labels, float64 (n,); concludes with those whose label does not lead."""
        features = tools.victim.features(view.images)
        _, codes, sizes = np.unique(view.labels, return_inverse=True, return_counts=True)
        k = np.clip(np.rint(self.k * sizes[codes]), 1, max(1, len(codes) - 1)).astype(np.int64)
        votes = neighbour_labels(features, codes, k, tools.track(len(codes), "neighbours"))
        votes /= sizes if self.balance else 1
        own = votes[np.arange(len(codes)), codes]
        tools.conclude(flagged=own < votes.max(1))
        return 1 - own / np.maximum(votes.sum(1), 1e-12)


def neighbour_labels(
    features: np.ndarray, codes: np.ndarray, k: np.ndarray, advance: Callable[[int], None] = lambda steps: None
) -> np.ndarray:
    """How many of the nearest neighbours of each example have each label, float64 (n, labels).

    features: (n, d); codes: int64 (n,), labels from 0, each of which there is; k: int64 (n,), neighbours of each, at
    least 1. All that are as far as the k-th are counted, and the example itself is not.
    """
    # The k-th distance is all that is sought in a row of them: lists of 5,000 neighbours each take hours, or memory.
    points = _centred(features)
    norms = np.einsum("ij,ij->i", points, points)
    by_label = np.argsort(codes, kind="stable")
    place, ends = np.argsort(by_label), np.cumsum(np.bincount(codes))
    columns = np.concatenate([-2 * points, norms[:, None]], 1)[by_label].T
    counts = np.zeros((len(codes), len(ends)))
    length = max(1, _PAIRS // len(codes))
    apart, sought = np.empty((2, length, len(codes)), np.float32)
    # Rows with the same k side by side, so that one call finds the k-th of all of them.
    for group in (np.flatnonzero(k == value) for value in np.unique(k)):
        nth = min(k[group[0]], len(codes)) - 1
        for rows in np.split(group, range(length, len(group), length)):
            m = len(rows)
            # |y|^2 - 2 xy, which orders y as their distance from x does.
            np.matmul(np.concatenate([points[rows], np.ones((m, 1), np.float32)], 1), columns, out=apart[:m])
            apart[np.arange(m), place[rows]] = np.inf
            sought[:m] = apart[:m]
            sought[:m].partition(nth, axis=1)
            # What rounding alone tells apart is as far.
            near = apart[:m] <= (sought[:m, nth] + _ROUNDING * (norms[rows] + norms.max()))[:, None]
            near[np.arange(m), place[rows]] = False
            counts[rows] = np.stack([np.count_nonzero(part, axis=1) for part in np.split(near, ends[:-1], axis=1)], 1)
            advance(m)
    return counts


def _centred(features: np.ndarray) -> np.ndarray:
    """Features (n, d) about their mean, float32, of which the longest has the length 1: so the fewest digits are lost.

    What is but rounding of equal features is 0.
    """
    centred = features - features.mean(0, dtype=np.float64)
    longest = float(np.sqrt((centred**2).sum(1).max()))
    if longest <= _ROUNDING * float(np.abs(features).max()):
        return np.zeros(features.shape, np.float32)
    return (centred / longest).astype(np.float32)
