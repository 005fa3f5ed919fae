"""The no-attack control: what a defense costs on a clean set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Attack, PoisonedData, Role, Split, Streams


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Leaves the training set as it is."""

    name = "none"

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        """A copy with every role CLEAN."""
        roles = np.full(len(train.labels), Role.CLEAN, np.int8)
        return PoisonedData(np.array(train.images), train.labels.copy(), roles, train.labels.copy())

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The images as they are."""
        return images.copy()

    def goal(self, labels: np.ndarray) -> None:
        """Nothing is attacked."""
        return None
