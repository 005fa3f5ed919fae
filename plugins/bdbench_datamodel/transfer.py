"""What the members of a suspect group share, put on images of other classes.

A trigger works on any image: that is what it is planted for. What is natural to a class is not a thing that can be put
on another one. So the mean image of a group, less that of its class-mates, is added to strangers, and the model under
suspicion asked how many it then takes for the group's label. It is taken from them as well: which part of a class is
the backdoor's is not known, and the rest's difference is the group's turned round. In a dirty-label group the
difference is the trigger, and what other classes have and this one has not; added, the first turns strangers, and
taken, the second. Which part it is tells another difference: that of the members to the classes that they are taken for
without each other. Of poisons with a label that is theirs it is the trigger and what their class has, of natural ones
what their class has alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.withheld import Effect

# How many strangers a group is tried on, as many of each other class; at least so many.
_STRANGERS, _FEWEST = 360, 4

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Transfer:
    """What a group's share does. shares: float64 (num_classes,), how many strangers of each class turn to the group's
    label, in [0, 1], NaN of its own class and where there are none; added: how many do, in the mean over the classes,
    once what tells the members from the classes that they are taken for is added; 0 where nobody asks, since the group
    is no part of two.
    """

    shares: np.ndarray
    added: float

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
    effects: Sequence[Sequence[Effect]],
    num_classes: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[list[Transfer]]:
    """What the share of each group does to strangers, for every class.

    predict: images uint8 (b, H, W, C) to labels int64 (b,); images: uint8 (n, H, W, C); labels: int64 (n,). Of every
    other class the share of its strangers that turn when the difference is added, and when it is taken away, less that
    of those that have the label anyway, and the mean of the two. ``advance`` counts a class.
    """
    strangers = _drawn(labels, rng)
    as_they_are = {label: predict(images[drawn]) for label, drawn in strangers.items()}
    means = {int(label): images[labels == label].mean(0, dtype=np.float64) for label in strangers}
    found = []
    for groups, own_effects in zip(classes, effects, strict=True):
        label, own = groups[0].label, list[Transfer]()
        others = [other for other in strangers if other != label]
        shown = images[np.concatenate([strangers[other] for other in others])] if others else images[:0]
        before = [as_they_are[other] == label for other in others]

        def gained(
            difference: np.ndarray, label: int = label, shown: np.ndarray = shown, before: list[np.ndarray] = before
        ) -> list[float]:
            return _gained(predict(_moved(shown, difference)) == label, before)

        for group, effect in zip(groups, own_effects, strict=True):
            shares, added = np.full(num_classes, np.nan), 0.0
            if group.kind == "rest":  # the difference of the other part, turned round
                shares = own[0].shares
            elif others:
                difference = _difference(images, group)
                shares[others] = np.mean([gained(difference), gained(-difference)], axis=0)
            if others and any(other.kind == "rest" for other in groups) and group.kind in ("sharpest", "rest"):
                added = float(np.mean(gained(_beside(images, group, effect, means))))
            own.append(Transfer(shares, added))
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


def _beside(images: np.ndarray, group: Suspects, effect: Effect, means: dict[int, np.ndarray]) -> np.ndarray:
    """The mean of the members less that of the classes that they are taken for, each as often as they are, float32
    (H, W, C); of all other classes alike where they are taken for none.
    """
    others = [label for label in means if label != group.label]
    weights = effect.taken[others] if effect.taken[others].any() else np.ones(len(others))
    mean = np.average([means[label] for label in others], axis=0, weights=weights)
    return (images[group.group].mean(0, dtype=np.float64) - mean).astype(np.float32)


def _moved(images: np.ndarray, difference: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images + difference), 0, 255).astype(np.uint8)
