"""What becomes of a suspect group's examples when the group is withheld from training.

The ensemble finds groups; whether one is a backdoor is asked of new networks, so that what was searched for is not
judged by what it was found in. Each of them is trained on a random subset from which, for every class by its own coin,
one of the class's groups is withheld, or none. What a group's members lose is the strength of the feature that they
share, by intervention: how far their margin rises with the others in the training set in place of none (the change of
the k-output of Khaddaj et al. 2023, sec. 3, from k = 0 to alpha p).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bdbench_datamodel.suspects import Suspects


@dataclass(frozen=True)
class Effect:
    """What withholding a group does. without: float64 (n_c,), the margin of each example of its class under networks
    that hold nothing of the group; lift: float64 (n_c,), how far it falls to that; alone, strength: the means of both
    over the members; agreement: what share of those networks, in the mean over the members, name the label that most of
    them find most probable of the others; taken: float64 (num_classes,), how often they take members for each other
    class, a share of all answers.
    """

    without: np.ndarray
    lift: np.ndarray
    alone: float
    strength: float
    agreement: float
    taken: np.ndarray


def draw(
    classes: Sequence[Sequence[Suspects]], examples: int, networks: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which group each network is denied, int64 (networks, classes), 0 for none and j for the j-th of the class; and
    its subset, bool (networks, examples), of ``size`` of what is left, or of as many as are left to every network.
    """
    denied = np.stack([rng.integers(0, len(groups) + 1, networks) for groups in classes], 1)
    left = np.ones((networks, examples), bool)
    for groups, own in zip(classes, denied.T, strict=True):
        for place, suspect in enumerate(groups, 1):
            left[np.ix_(own == place, suspect.group)] = False
    size = min(size, int(left.sum(1).min()))
    # By a key for each example, so that one more or less in a group exchanges one in a subset, and not all of it.
    keys = np.where(left, rng.random(left.shape), np.inf)
    masks = np.zeros_like(left)
    np.put_along_axis(masks, np.argsort(keys, axis=1, kind="stable")[:, :size], True, axis=1)
    return denied, masks


def effects(
    classes: Sequence[Sequence[Suspects]],
    denied: np.ndarray,
    masks: np.ndarray,
    margins: np.ndarray,
    rivals: np.ndarray,
    num_classes: int,
) -> list[list[Effect]]:
    """What withholding each group does to its class, from what ``draw`` gave, margins, float (M, n), and the most
    probable of the other labels, int (M, n).

    With the group in reach, only networks that do not hold an example count for it (the paper's z not in S'). A group
    that no network was denied, or every one, has no effect.
    """
    found = []
    for groups, own in zip(classes, denied.T, strict=True):
        reached, results = own == 0, []
        for place, suspect in enumerate(groups, 1):
            without, examples, members = own == place, suspect.examples, suspect.members
            lift, alone = np.zeros(len(examples)), np.zeros(len(examples))
            agreement, taken = 0.0, np.zeros(num_classes)
            if without.any() and reached.any():
                alone = margins[without][:, examples].mean(0, dtype=np.float64)
                lift = unseen(margins[reached][:, examples], masks[reached][:, examples]) - alone
                named, wrong = rivals[without][:, suspect.group], margins[without][:, suspect.group] <= 0
                agreement = _agreement(named)
                taken = np.bincount(named[wrong], minlength=num_classes) / named.size
            means = float(alone[members].mean()), float(lift[members].mean())
            results.append(Effect(alone, lift, *means, agreement, taken))
        found.append(results)
    return found


def unseen(margins: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean of each column (n,) over the rows that do not hold it, float64; over all rows where every one does."""
    counts = (~masks).sum(0)
    sums = np.where(masks, 0, margins).sum(0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), margins.mean(0, dtype=np.float64))


def _agreement(named: np.ndarray) -> float:
    """The share of rows (M, k) that hold the commonest value of their column, in the mean over the columns."""
    return float(stats.mode(named, axis=0).count.mean() / len(named))
