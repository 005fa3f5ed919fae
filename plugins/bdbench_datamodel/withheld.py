"""What becomes of a suspect group's examples when the group is withheld from training.

The ensemble finds groups; whether one is a backdoor is asked of new networks, so that what was searched for is not
judged by what it was found in. Each of them is trained on a random subset from which, for every class by a lot of its
own, one of the class's groups is withheld, or none, each as often as the others. What a group's members lose is the
strength of the feature that they share, by intervention: how far their margin rises with the others in the training set
in place of none (the change of the k-output of Khaddaj et al. 2023, sec. 3, from k = 0 to alpha p).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.suspects import Suspects


@dataclass(frozen=True)
class Effect:
    """What withholding a group does. without: float64 (n_c,), the margin of each example of its class under networks
    that hold nothing of the group, nor the example; lift: float64 (n_c,), how far it falls to that; alone, strength:
    the means of both over the members; taken: float64 (num_classes,), how often those networks take members for each
    other class, a share of all answers.
    """

    without: np.ndarray
    lift: np.ndarray
    alone: float
    strength: float
    taken: np.ndarray


def draw(
    classes: Sequence[Sequence[Suspects]], examples: int, networks: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which group each network is denied, int64 (networks, classes), 0 for none and j for the j-th of the class; and
    its subset, bool (networks, examples), of ``size`` of what is left, or of as many as are left to every network.
    """
    # Each as often as the others: of few networks coins would leave some group to none.
    denied = np.stack([rng.permutation(np.arange(networks) % (len(groups) + 1)) for groups in classes], 1)
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

    Only networks that do not hold an example count for it, with the group in reach as without it (the paper's z not in
    S'): else class-mates, of which they hold a part, would seem to need the group less than its members do. A group
    that no network was denied, or every one, has no effect.
    """
    found = []
    for groups, own in zip(classes, denied.T, strict=True):
        reached, results = own == 0, []
        for place, suspect in enumerate(groups, 1):
            without, examples, members = own == place, suspect.examples, suspect.members
            lift, alone = np.zeros(len(examples)), np.zeros(len(examples))
            taken = np.zeros(num_classes)
            if without.any() and reached.any():
                alone = unseen(margins[without][:, examples], masks[without][:, examples])
                lift = unseen(margins[reached][:, examples], masks[reached][:, examples]) - alone
                named, wrong = rivals[without][:, suspect.group], margins[without][:, suspect.group] <= 0
                taken = np.bincount(named[wrong], minlength=num_classes) / named.size
            means = float(alone[members].mean()), float(lift[members].mean())
            results.append(Effect(alone, lift, *means, taken))
        found.append(results)
    return found


def unseen(margins: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean of each column (n,) over the rows that do not hold it, float64; over all rows where every one does."""
    counts = (~masks).sum(0)
    sums = np.where(masks, 0, margins).sum(0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), margins.mean(0, dtype=np.float64))
