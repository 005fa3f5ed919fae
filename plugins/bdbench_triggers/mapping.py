"""What triggers lead to: one target, the label after each image's own, or several targets with a trigger each."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from bdbench import BdbenchError, Challenge, PoisonedData, Role, Split, State, Streams, TriggerAttack, Workshop, param


@dataclass(frozen=True, kw_only=True)
class Mapped(TriggerAttack, ABC):
    """A dirty-label trigger attack with a choice of what its triggers lead to.

    mapping: the two attacks of BadNets on MNIST: every image to one target, or every class to the next (all-to-all).
    With several targets the poisons are shared out evenly among them, and every test image is tried with each trigger.
    """

    mapping: Literal["all-to-one", "all-to-all"] = param(
        "all-to-one", help="what the trigger gives: the target, or the label after the image's own"
    )
    targets: int | tuple[int, ...] = param(
        1, help="how many targets, the first being target and the others the labels after it; or which, such as 0+3"
    )

    @abstractmethod
    def variant(self, nth: int) -> Self:
        """The attack that stamps the trigger of the nth target, from 0; 0: as it is."""

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With all targets as labels of the set. Raises BdbenchError for others."""
        attack = super().settled(num_classes, streams)
        if attack.targets == 1:
            return attack
        labels = attack.targets
        if isinstance(labels, int):
            assert attack.target != "seed"
            labels = tuple((attack.target + i) % num_classes for i in range(max(0, labels)))
        shown = "+".join(map(str, attack.targets)) if isinstance(attack.targets, tuple) else attack.targets
        if not 1 <= len(set(labels)) == len(labels) or not all(0 <= label < num_classes for label in labels):
            raise BdbenchError(
                f"targets={shown} is not allowed: expected a number in 1..{num_classes}, or different labels in "
                f"0..{num_classes - 1}"
            )
        if attack.mapping != "all-to-one":
            raise BdbenchError(f"targets={shown} is not allowed with mapping={attack.mapping}: expected all-to-one")
        return dataclasses.replace(attack, target=labels[0], targets=labels)

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The target, or (y + 1) mod K."""
        return (labels + 1) % num_classes if self.mapping == "all-to-all" else super().goal(labels, num_classes)

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """Poisons for each target. Raises BdbenchError if the rate does not leave one for each."""
        if not isinstance(self.targets, tuple):
            return super().poison(train, state, tools)
        images, labels = np.array(train.images), train.labels.copy()
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        count, rng = round(self.rate * len(labels)), tools.streams("choice")
        for nth, target in enumerate(self.targets):
            pool = np.flatnonzero((roles == Role.CLEAN) & (train.labels != target))
            share = count // len(self.targets) + (nth < count % len(self.targets))
            if not 1 <= share <= len(pool):
                raise BdbenchError(
                    f"rate={self.rate:g} asks for {share} poisons for target {target}, one of {len(self.targets)}: "
                    f"expected between 1 and the {len(pool)} examples that it may poison"
                )
            chosen = np.sort(rng.choice(pool, share, replace=False))
            images[chosen] = self.variant(nth).stamp(images[chosen], _own(tools.streams, nth))
            labels[chosen], roles[chosen] = target, Role.POISON
        return PoisonedData(images, labels, roles, train.labels.copy())

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """Every test image with each trigger whose target is not its own label."""
        if not isinstance(self.targets, tuple):
            return super().challenge(test, state, tools)
        rows = [np.flatnonzero(test.labels != target) for target in self.targets]
        shown = [
            self.variant(nth).trigger(np.asarray(test.images)[index], _own(tools.streams, nth))
            for nth, index in enumerate(rows)
        ]
        goal = np.repeat(np.array(self.targets, np.int64), [len(index) for index in rows])
        return Challenge(np.concatenate(shown), np.concatenate(rows), goal)


def _own(streams: Streams, nth: int) -> Streams:
    """The streams of the nth trigger, so that what is drawn for one is not drawn for another."""
    return streams.child(f"target {nth}") if nth else streams
