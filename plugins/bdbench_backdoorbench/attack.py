"""A record of BackdoorBench as an attack: its poisoned set, its triggered test set and its victim."""

from __future__ import annotations

import functools
from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bdbench import (
    Attack,
    BdbenchError,
    Challenge,
    PoisonedData,
    Role,
    Split,
    State,
    Workshop,
    notice,
    param,
)
from bdbench_backdoorbench.known import MODELS
from bdbench_backdoorbench.record import RESULT, AttackResult, read

if TYPE_CHECKING:
    from bdbench import Victim


# Of fewer images nothing can be told, nor where fewer of them are nearer than this: half are by chance.
_FEW, _NEARER = 20, 0.75


@dataclass(frozen=True, kw_only=True)
class _OfRecord(Attack, ABC):
    """What all attacks that are a record have: its triggered tests, and its victim."""

    paper = "Wu et al., BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022"
    foreign: ClassVar[bool] = True
    record: str = param("", help="a folder with attack_result.pt")

    def files(self) -> tuple[Path, ...]:
        """The record itself, weights and labels; the images beside it are known by the sets that they make."""
        return (self._folder() / RESULT,)

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """See ``triggered_set``."""
        return self.triggered_set(test)

    def triggered_set(self, test: Split) -> Challenge:
        """The record's triggered test images, as far as ``test`` has what they were made of.

        Raises BdbenchError if ``test`` is not of the data set that the record was made on.
        """
        part = self.result().test
        if len(test.labels) > part.size or test.places.max() >= part.size:
            raise BdbenchError(
                f"{self._title()} triggers its own {part.size} test images only: the data set has {len(test.labels)}"
            )
        row = np.full(part.size, -1)
        row[test.places] = np.arange(len(test.labels))
        index = row[part.changed]
        there = index >= 0
        differ = np.flatnonzero(there & (test.labels[index] != part.original_labels))
        if len(differ):
            first = differ[0]
            raise BdbenchError(
                f"{self._title()} says that test example {part.changed[first]} was of class "
                f"{part.original_labels[first]}, but in the data set it is of class {test.labels[index[first]]}"
            )
        images = part.decoded(np.asarray(test.images).shape[1:])
        self._compare(np.asarray(test.images)[index[there]], images[there], "test")
        return Challenge(images[there], index[there], part.labels[there])

    def own_victim(self, tools: Workshop) -> Victim | None:
        """The record's weights with BackdoorBench's normalisation; None if they are of another architecture.

        Raises BdbenchError where that normalisation is not known.
        """
        result = self.result()
        if MODELS.get(result.model_name) != tools.architecture.name:
            return None
        victim = tools.restore(result.clean_set().victim(result.state))
        victim.precision = "float32"  # as it was trained
        return victim

    def result(self) -> AttackResult:
        """What the record holds. Raises BdbenchError if it does not read."""
        folder = self._folder()
        file = folder / RESULT
        return _read(folder, _identity(file) if file.is_file() else ())

    def _compare(self, own: np.ndarray, marked: np.ndarray, part: str) -> None:
        """Tell the user where marked images are no nearer to those that they were made of than to their neighbours'.

        Images of another order within the classes have the right labels. A trigger may hide all of an image, so that
        this is no error.
        """
        if len(own) < _FEW:
            return
        distances = [np.abs(marked - other.astype(np.int16)).mean((1, 2, 3)) for other in (own, np.roll(own, 1, 0))]
        if (distances[0] < distances[1]).mean() < _NEARER:
            notice(
                f"{self._title()}: its {part} images are no nearer to the data set's own images than to others: "
                f"expected {self.result().clean_data} in its own order"
            )

    def _folder(self) -> Path:
        if not self.record:
            raise BdbenchError(f"attack {self.name!r} needs a record: expected {self.name}:record=DIR")
        path = Path(self.record)
        return path.parent if path.name == RESULT else path

    def _title(self) -> str:
        return f"the record {self.record}"


@dataclass(frozen=True, kw_only=True)
class BackdoorBenchRecord(_OfRecord):
    """An attack that BackdoorBench has run: give the data set it was run on, and its model to measure its victim.

    Poisoned images come from the record's folder, all others from the data set, by index. With the architecture of
    the record as ``--model`` the victim is the record's own; with any other, one is trained.
    """

    name = "backdoorbench"
    weights: bool = param(True, help="use the record's own victim, where its architecture is the model's")

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """See ``poisoned_set``."""
        return self.poisoned_set(train, tools.num_classes)

    def poisoned_set(self, train: Split, num_classes: int) -> PoisonedData:
        """The record's training set, in the order of ``train``, whatever that is.

        Raises BdbenchError if ``train`` is not the whole data set that the record was made on, and if it has none.
        """
        result = self.result()
        part = result.training_set()
        images, labels = np.array(train.images), train.labels.copy()
        if (len(labels), num_classes) != (part.size, result.num_classes):
            asked = f"{part.size} training images of {result.num_classes} classes ({result.clean_data}, no subset)"
            raise BdbenchError(f"{self._title()} is of {asked}: the data set has {len(labels)} of {num_classes}")
        row = np.argsort(train.places)  # of each place, since all of them are there
        changed = row[part.changed]
        differ = np.flatnonzero(labels[changed] != part.original_labels)
        if len(differ):
            first = differ[0]
            raise BdbenchError(
                f"{self._title()} says that training example {part.changed[first]} was of class "
                f"{part.original_labels[first]}, but in the data set it is of class {labels[changed[first]]}: "
                f"expected {result.clean_data} in its own order"
            )
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        marked = part.decoded(images.shape[1:])
        self._compare(images[changed], marked, "training")
        images[changed] = marked
        labels[changed] = part.labels
        roles[changed] = result.roles()
        index = np.sort(row[part.index])
        return PoisonedData(images[index], labels[index], roles[index], train.labels[index], index)

    def victim(self, state: State, tools: Workshop) -> Victim | None:
        """The record's, if it is of the model's architecture and asked for."""
        return self.own_victim(tools) if self.weights else None


@dataclass(frozen=True, kw_only=True)
class BackdoorBenchVictim(_OfRecord):
    """The victim in a record of BackdoorBench, and its triggered test images; the training set is clean.

    For attackers who train the model themselves, as BackdoorBench's blind and lira do: they save no poisoned set, so
    that only what inspects or repairs a model, or refuses inputs, has something to look at.
    """

    name = "backdoorbench-victim"
    trains: ClassVar[bool] = True
    plants: ClassVar[bool] = False

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """The clean set. Raises BdbenchError if it has other classes than the record."""
        result = self.result()
        if tools.num_classes != result.num_classes:
            told = f"{self._title()} is of {result.num_classes} classes ({result.clean_data})"
            raise BdbenchError(f"{told}: the data set has {tools.num_classes}")
        roles = np.full(len(train.labels), Role.CLEAN, np.int8)
        return PoisonedData(np.array(train.images), train.labels.copy(), roles, train.labels.copy())

    def victim(self, state: State, tools: Workshop) -> Victim:
        """The record's. Raises BdbenchError if it is of another architecture than the model's."""
        victim = self.own_victim(tools)
        if victim is None:
            known = ", ".join(f"--model {ours} for {theirs}" for theirs, ours in MODELS.items())
            told = f"{self._title()} has a victim of the architecture {self.result().model_name}"
            raise BdbenchError(f"{told}, not {tools.architecture.name}: expected {known}")
        return victim


def _identity(file: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced, whatever time it is given."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=2)
def _read(folder: Path, _identity: tuple[int, ...]) -> AttackResult:
    """One record is asked for several times in a run."""
    return read(folder)
