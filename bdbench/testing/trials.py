"""What an attack makes of the sample sets: a grey and a colour one of 200 + 100 images in ten classes."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bdbench.cells.tools import HarnessWorkshop
from bdbench.components.attacks import Attack
from bdbench.components.workshop import State
from bdbench.images.data import Challenge, ImageData, PoisonedData
from bdbench.seeds import Streams
from bdbench.testing.checks import fitting, kept
from bdbench.testing.samples import COLOUR, GREY, Shape, split, workshop

CLASSES, COUNT = 10, 200
SHAPES = (GREY, COLOUR)
_TEST = 100


def images_of(shape: Shape) -> ImageData:
    """The sample set of that shape, as nobody has touched it."""
    parts = split(shape, CLASSES, COUNT), split(shape, CLASSES, _TEST, seed=1)
    return ImageData(*parts, tuple(map(str, range(CLASSES))))


@dataclass(frozen=True)
class Trial:
    """An attack at work. attack: with what its parameters leave to the seed drawn; images: what it is handed."""

    attack: Attack
    images: ImageData
    tools: HarnessWorkshop
    state: State

    def poison(self) -> PoisonedData:
        """The training set after the attack."""
        return self.attack.poison(self.images.train, self.state, self.tools)

    def challenge(self) -> Challenge | None:
        """What it tries models with."""
        return self.attack.challenge(self.images.test, self.state, self.tools)


A = TypeVar("A", bound=Attack)


def settled(attack: A, num_classes: int, seed: int = 0) -> A:
    """The attack, with what its parameters leave to the seed drawn as the harness does."""
    return attack.settled(num_classes, Streams(seed).child("attack"))


@contextmanager
def tried(attack: Attack, images: ImageData, seed: int = 0, state: State | None = None) -> Iterator[Trial]:
    """The attack, settled and with what it crafts; or, of ``state``, with what it crafted before."""
    ready = settled(attack, images.num_classes, seed)
    with tempfile.TemporaryDirectory() as folder:
        tools = workshop(ready, images.train, images.num_classes, seed, Path(folder))
        crafted = dict(ready.craft(images.train, tools)) if state is None else state
        yield Trial(ready, images, tools, crafted)


@dataclass(frozen=True)
class Made:
    """What came of a trial. images: as they were before it."""

    attack: Attack
    images: ImageData
    poisoned: PoisonedData
    challenge: Challenge | None

    @property
    def origin(self) -> np.ndarray:
        """The row of the training set that each example was, int64 (n,)."""
        return np.arange(len(self.poisoned.labels)) if self.poisoned.index is None else self.poisoned.index


def made(attack: Attack, shape: Shape, seed: int = 0) -> Made:
    """What an attack makes of the sample set of that shape. Raises BdbenchError if they do not fit."""
    with tried(attack, images_of(shape), seed, crafted(attack, shape, seed)) as trial:
        poisoned = trial.poison()
        return Made(trial.attack, images_of(shape), poisoned, trial.challenge())


def crafted(attack: Attack, shape: Shape, seed: int = 0) -> State:
    """What it crafts for the sample set of that shape, which may take long: a copy of what is kept."""
    return copy.deepcopy(_crafted(attack, shape, seed))


@kept
def _crafted(attack: Attack, shape: Shape, seed: int) -> State:
    with tried(attack, images_of(shape), seed) as trial:
        return trial.state


def all_made(attack: Attack) -> list[Made]:
    """The same for the sample sets that fit the attack."""
    return fitting(SHAPES, lambda shape: made(attack, shape))


def columns(poisoned: PoisonedData) -> dict[str, np.ndarray]:
    """The arrays of a poisoned set, by what messages call them."""
    return {f"poisoned {name}": array for name, array in vars(poisoned).items() if array is not None}


def rows(challenge: Challenge | None) -> dict[str, np.ndarray]:
    """The same of a challenge."""
    return {} if challenge is None else {f"challenge {name}": array for name, array in vars(challenge).items()}
