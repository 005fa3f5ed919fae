"""A finished run opened again: everything it was made of, rebuilt from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bdbench.cells.cell import Cell
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense
from bdbench.components.workshop import State, Tools
from bdbench.images.data import Challenge, ImageData, PoisonedData, TrainingView
from bdbench.networks.training import Victim
from bdbench.storage.record import Record


@dataclass(frozen=True)
class Reopened:
    """A run and what it was made of. Reads stage results where they still are, else computes them again.

    record: what was measured; arrays: what was kept beside it, none for a record alone.
    """

    record: Record
    arrays: Mapping[str, np.ndarray]
    defense: Defense
    _cell: Cell

    @property
    def scores(self) -> np.ndarray | None:
        """Suspicion of the training examples, float64 (n,); None unless the defense is a detector of theirs."""
        return self.arrays.get("scores")

    @property
    def kept(self) -> np.ndarray | None:
        """What removing the budget left of the training set, bool (n,); None where none was removed."""
        return self.arrays.get("kept")

    @property
    def attack(self) -> Attack:
        """The attack, with its parameters; what they leave to the seed is drawn."""
        return self._cell.scene.attack

    @property
    def state(self) -> State:
        """What the attack crafted, by name; nothing of most."""
        return self._cell.scene.state

    @property
    def clean(self) -> ImageData:
        """The data set before it was poisoned, as the run prepared it."""
        return self._cell.scene.images

    @property
    def poisoned(self) -> PoisonedData:
        """The poisoned training set, with the truth."""
        return self._cell.scene.poisoned

    @property
    def challenge(self) -> Challenge | None:
        """What models were tried with; None where nothing is attacked."""
        return self._cell.scene.challenge

    @property
    def attacked(self) -> np.ndarray:
        """Which rows of the challenge are attacked, bool (m,)."""
        return self._cell.scene.attacked

    @property
    def view(self) -> TrainingView:
        """The poisoned training set as defenses see it."""
        return self._cell.scene.view

    @property
    def places(self) -> np.ndarray:
        """The place of each poisoned example in the whole clean training part, int64 (n,)."""
        return self._cell.scene.places

    @property
    def whole(self) -> int:
        """How many examples the clean training part has, with the reserve and without a subset taken."""
        return self.clean.whole

    def victim(self) -> Victim:
        """The model trained on the poisoned set; trained again if its stage result is gone."""
        return self._cell.models.victim

    def tools(self) -> Tools:
        """The tools the defense had: pieces it saved are found again."""
        return self._cell.scene.tools(self.defense, self.victim())
