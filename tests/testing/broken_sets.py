"""Attacks of which one thing is wrong: what they say of themselves, and the poisoned set that they make."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bdbench import (
    Challenge,
    PoisonedData,
    Role,
    Split,
    State,
    Streams,
    TriggerAttack,
    Workshop,
    param,
)


@dataclass(frozen=True, kw_only=True)
class Square(TriggerAttack):
    """A white square."""

    name = "square"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :3, :3] = 255
        return stamped


class Altered(Square):
    """The sound attack with other arrays."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {}

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        made = super().poison(train, state, tools)
        return dataclasses.replace(made, **self.changes(made, train))


class Challenging(Square):
    """The sound attack with another challenge."""

    def changes(self, made: Challenge, test: Split) -> dict[str, Any]:
        return {}

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        made = super().challenge(test, state, tools)
        return dataclasses.replace(made, **self.changes(made, test))


@dataclass(frozen=True, kw_only=True)
class Silent(Square):
    size: int = param(3, help="side")


@dataclass(frozen=True, kw_only=True)
class Terse(Square):
    """A parameter without help."""

    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Forgetful(Square):
    """Its config leaves a parameter out."""

    size: int = param(3, help="side")

    def config(self) -> dict[str, Any]:
        return {"name": self.name}


class Stringly(Square):
    """Names a file by a string."""

    def files(self) -> Any:
        return ("pattern.png",)


class Sometimes(Square):
    """Names other files every time."""

    def files(self) -> tuple[Path, ...]:
        return (Path(str(time.perf_counter_ns())),)


class Floats(Altered):
    """Images as floats."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"images": made.images / 255}


class OffTheEnd(Altered):
    """An index that leads nowhere."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"index": np.arange(1, len(made.labels) + 1)}


class OneTooMany(Altered):
    """A label that is not there."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"labels": np.full_like(made.labels, 10)}


class Hidden(Altered):
    """Poisons that are called clean."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"roles": np.zeros(len(made.labels), np.int8)}


class Boastful(Altered):
    """Clean examples that are called cover."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"roles": np.where(made.roles, made.roles, Role.COVER).astype(np.int8)}


class Unchanged(Altered):
    """Poisons that are as they were."""

    clean_label = True

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"images": np.array(train.images)}


class Unknown(Altered):
    """A role that does not exist."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"roles": np.where(made.roles, 3, 0).astype(np.int8)}


class Overwritten(Altered):
    """Original labels that are those after the attack."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return {"original_labels": made.labels.copy()}


class OfTheOthers(Square):
    """The rate is taken of the other classes alone."""

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        others = float(np.mean(train.labels != self.target))
        return Square(rate=self.rate * others).poison(train, state, tools)


class SoCalledControl(Square):
    """Calls itself a control, and poisons."""

    control = True


class SoCalledNatural(Square):
    """Says that it plants nothing, and poisons."""

    plants = False


class NotSoClean(Square):
    """Says clean-label and changes labels."""

    clean_label = True

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        return Square(rate=self.rate, target=self.target).poison(train, state, tools)


@dataclass(frozen=True, kw_only=True)
class CleanSquare(Square):
    """The square, on target-class images."""

    name = "clean-square"
    clean_label = True


class NotSoDirty(Square):
    """Says dirty-label and keeps labels."""

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        return CleanSquare(rate=self.rate, target=self.target).poison(train, state, tools)


def reordered(made: PoisonedData, order: np.ndarray) -> dict[str, Any]:
    return {"index": order, **{name: array[order] for name, array in vars(made).items() if array is not None}}


class Sorting(Altered):
    """Lists the set class by class."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return reordered(made, np.argsort(made.original_labels, kind="stable"))


class Appending(Altered):
    """Puts its poisons at the end."""

    def changes(self, made: PoisonedData, train: Split) -> dict[str, Any]:
        return reordered(made, np.argsort(made.roles, kind="stable"))
