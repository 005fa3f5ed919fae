"""What the members of a suspect group share, put on images of other classes.

A trigger works on any image: that is what it is planted for. What is natural to a class is not a thing that can be put
on another one. So the mean image of a group, less that of its class-mates, is added to strangers, and the model under
suspicion asked how many it then takes for the group's label. It is taken from them as well: which part of a class is
the backdoor's is not known, and the rest's difference is the group's turned round. In a dirty-label group the
difference is the trigger, and what other classes have and this one has not; added, the first turns strangers, and
taken, the second. Once it is taken from the members, poisons lose the trigger, and those that lie far enough from the
mean of their classes are seen for what they are; natural members stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.suspects import Suspects

# How many strangers a group is tried on, as many of each other class; at least so many.
_STRANGERS, _FEWEST = 360, 4

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Transfer:
    """What a group's share does. shares: float64 (num_classes,), how many strangers of each class turn to the group's
    label, in [0, 1], NaN of its own class and where there are none; left: how many of its members have another label
    once what they share is taken from them.
    """

    shares: np.ndarray
    left: float

    def turned(self, taken: np.ndarray, knowing: float) -> float:
        """How far it turns strangers, in [0, 1]: the root mean square over the classes, so that one alone counts.

        taken: float64 (num_classes,), how often the group's members are taken for each class without each other. A
        trigger may work on those classes alone that the poisons are of, so as far as the networks know the classes
        (knowing, in [0, 1]) each counts by that, else all as much.
        """
        there = ~np.isnan(self.shares)
        if not there.any():
            return 0.0
        weights = np.full(there.sum(), 1 / there.sum())
        if taken[there].any():
            weights = knowing * taken[there] / taken[there].sum() + (1 - knowing) * weights
        return float(np.sqrt(weights @ self.shares[there] ** 2))


def turned(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[Sequence[Suspects]],
    num_classes: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[list[Transfer]]:
    """What the share of each group does to strangers and to its own members, for every class.

    predict: images uint8 (b, H, W, C) to labels int64 (b,); images: uint8 (n, H, W, C); labels: int64 (n,). Of every
    other class the share of its strangers that turn when the difference is added, and when it is taken away, less that
    of those that have the label anyway, and the mean of the two. ``advance`` counts a class.
    """
    strangers = _drawn(labels, rng)
    as_they_are = {label: predict(images[drawn]) for label, drawn in strangers.items()}
    found = []
    for groups in classes:
        label, own = groups[0].label, list[Transfer]()
        others = [other for other in strangers if other != label]
        shown = images[np.concatenate([strangers[other] for other in others])] if others else images[:0]
        before = [as_they_are[other] == label for other in others]
        for group in groups:
            difference, shares = _difference(images, group), np.full(num_classes, np.nan)
            if group.kind == "rest":  # the difference of the other part, turned round
                shares = own[0].shares
            elif others:
                turns = [predict(_moved(shown, sign * difference)) == label for sign in (1, -1)]
                shares[others] = np.mean([_gained(each, before) for each in turns], axis=0)
            left = float((predict(_moved(images[group.group], -difference)) != label).mean())
            own.append(Transfer(shares, left))
        found.append(own)
        advance(1)
    return found


def _drawn(labels: np.ndarray, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Strangers of each label, int64 (s,): places in the training set."""
    present = np.unique(labels)
    each = max(_FEWEST, -(-_STRANGERS // max(1, len(present) - 1)))
    return {int(label): rng.permutation(np.flatnonzero(labels == label))[:each] for label in present}


def _gained(now: np.ndarray, before: Sequence[np.ndarray]) -> list[float]:
    """How many more strangers of each class have the label than had it, a share of them, at least 0. now: bool (s,), of
    all classes one after the other; before: bool (s_c,) for each.
    """
    parts = np.split(now, np.cumsum([len(had) for had in before[:-1]]))
    return [max(0.0, float(has.mean() - had.mean())) for has, had in zip(parts, before, strict=True)]


def _difference(images: np.ndarray, group: Suspects) -> np.ndarray:
    """The mean of the members less that of their class-mates, float32 (H, W, C), in grey levels."""
    examples, members = group.examples, group.members
    mean = [images[examples[those]].mean(0, dtype=np.float64) for those in (members, ~members)]
    return (mean[0] - mean[1]).astype(np.float32)


def _moved(images: np.ndarray, difference: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images + difference), 0, 255).astype(np.uint8)
