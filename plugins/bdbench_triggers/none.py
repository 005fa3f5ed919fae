"""The no-attack control: what a defense costs on a clean set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bdbench import Attack, PoisonedData, Role, Split, State, Workshop


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Leaves the training set as it is."""

    name = "none"
    control: ClassVar[bool] = True

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """A copy with every role CLEAN."""
        roles = np.full(len(train.labels), Role.CLEAN, np.int8)
        return PoisonedData(np.array(train.images), train.labels.copy(), roles, train.labels.copy())

    def challenge(self, test: Split, state: State, tools: Workshop) -> None:
        """Nothing is attacked."""
        return None
