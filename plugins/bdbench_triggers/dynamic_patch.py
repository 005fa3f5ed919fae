"""Dynamic patch: noise of which only the region says what it wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from bdbench import BdbenchError, Challenge, Split, State, Streams, TriggerAttack, Workshop, param


@dataclass(frozen=True, kw_only=True)
class DynamicPatch(TriggerAttack):
    """Dirty-label: a square of uniform noise, drawn anew for each image, at a random place in its target's region.

    The random backdoor of the paper, for one target (the region is the whole image) or several (disjoint regions, here
    the cells of a grid, row by row; the targets are ``target`` and the labels after it). A test image is tried with
    each target's trigger. The paper's attacker trains the model and draws new triggers for each batch; this one only
    poisons the data, so that a poison has one. Its other two attacks train a generator of triggers. The rate is
    bdbench's common default.
    """

    name = "dynamic-patch"
    paper = "Salem et al., Dynamic Backdoor Attacks Against Machine Learning Models, EuroS&P 2022, arXiv:2003.03675"
    targets: int = param(1, help="how many labels have a trigger", low=1)
    size: int = param(5, help="side of the square, in pixels", low=1)

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With targets that are labels of the set. Raises BdbenchError for more than there are."""
        if self.targets > num_classes:
            raise BdbenchError(f"targets={self.targets} are more than there are: expected 1..{num_classes}")
        return super().settled(num_classes, streams)

    def taught(self, labels: np.ndarray, tools: Workshop) -> np.ndarray:
        """One of the targets for each example, drawn."""
        return self._labels(self._slots(len(labels), tools), tools.num_classes)

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Each with the trigger of the target that it teaches."""
        slots = self._slots(chosen.max() + 1, tools)[chosen]
        return self._stamp(images, slots, tools.streams("triggers in training"))

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The first target's trigger."""
        return self._stamp(images, np.zeros(len(images), np.int64), streams("trigger"))

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """A row for each test image and each target that is not its own label, with triggers that were never seen."""
        targets = self._labels(np.arange(self.targets), tools.num_classes)
        slots, index = np.nonzero(targets[:, None] != test.labels)
        images = self._stamp(np.asarray(test.images)[index], slots, tools.streams("triggers at test time"))
        return Challenge(images, index, targets[slots])

    def _labels(self, slots: np.ndarray, num_classes: int) -> np.ndarray:
        assert self.target != "seed"
        return (self.target + slots) % num_classes

    def _slots(self, count: int, tools: Workshop) -> np.ndarray:
        """Which target each of the first ``count`` training examples has as a poison, int64: of more the same."""
        return (tools.streams("targets").random(count) * self.targets).astype(np.int64)

    def _stamp(self, images: np.ndarray, slots: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n, height, width, channels = images.shape
        across = math.ceil(math.sqrt(self.targets))
        down = -(-self.targets // across)
        top, left = self._places(slots // across, down, height, rng), self._places(slots % across, across, width, rng)
        reach = np.arange(self.size)
        rows, columns = (top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None]
        stamped = images.copy()
        patches = rng.integers(0, 256, (n, self.size, self.size, channels), np.uint8)
        stamped[np.arange(n)[:, None, None], rows, columns] = patches
        return stamped

    def _places(self, cells: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """A random start in each cell, of ``count`` along a side of ``length`` pixels."""
        first, end = cells * length // count, (cells + 1) * length // count
        if self.size > length // count:
            raise BdbenchError(
                f"attack {self.name!r}: size={self.size} does not fit the regions of targets={self.targets} in "
                f"{length} pixels: expected at most {length // count}"
            )
        return rng.integers(first, end - self.size + 1)
