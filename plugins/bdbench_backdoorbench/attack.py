"""A record of BackdoorBench as an attack: its poisoned set, its triggered test set and its victim."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import Architecture, Attack, BdbenchError, PoisonedData, Role, Split, Streams, param, unknown
from bdbench_backdoorbench.known import CLEAN_SETS, MODELS
from bdbench_backdoorbench.record import RESULT, AttackResult, read


@dataclass(frozen=True, kw_only=True)
class BackdoorBenchRecord(Attack):
    """An attack that BackdoorBench has run: give the data set it was run on, and its model to measure its victim.

    Poisoned images come from the record's folder, all others from the data set, by index. With the architecture of
    the record as ``--model`` the victim is the record's own; with any other, one is trained.
    """

    name = "backdoorbench"
    paper = "Wu et al., BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022"
    record: str = param("", help="a folder with attack_result.pt")
    weights: bool = param(True, help="use the record's own victim, where its architecture is the model's")

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        """The record's training set, in its order. Raises BdbenchError if the data set is not the record's."""
        result = self.result()
        part = result.train
        images, labels = np.array(train.images), train.labels.copy()
        if (len(labels), num_classes) != (part.size, result.num_classes):
            asked = f"{part.size} training images of {result.num_classes} classes ({result.clean_data}, no subset)"
            raise BdbenchError(f"{self._title()} is of {asked}: the data set has {len(labels)} of {num_classes}")
        differ = np.flatnonzero(labels[part.changed] != part.original_labels)
        if len(differ):
            i = part.changed[differ[0]]
            raise BdbenchError(
                f"{self._title()} says that training example {i} was of class {part.original_labels[differ[0]]}, "
                f"but in the data set it is of class {labels[i]}: expected {result.clean_data} in its own order"
            )
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        images[part.changed] = part.decoded(images.shape[1:])
        labels[part.changed] = part.labels
        roles[part.changed] = result.roles()
        return PoisonedData(
            images[part.index], labels[part.index], roles[part.index], train.labels[part.index], part.index
        )

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The test set with the record's triggered images in their places; the others are as they were."""
        part = self.result().test
        if len(images) != part.size:
            raise BdbenchError(
                f"{self._title()} triggers its own {part.size} test images only: the data set has {len(images)}"
            )
        out = images.copy()
        out[part.changed] = part.decoded(images.shape[1:])
        return out

    def goal(self, labels: np.ndarray) -> np.ndarray:
        """The record's label for each of its triggered test images; elsewhere the true one, which counts nothing.

        For labels that are not those of its test set: the one target, or what its test set says of that label.
        """
        result = self.result()
        part = result.test
        if len(labels) == part.size and np.array_equal(labels[part.changed], part.original_labels):
            goal = labels.copy()
            goal[part.changed] = part.labels
            return goal
        target, goals = result.target(), result.goals()
        return np.array([goals.get(y, y) if target is None else target for y in labels.tolist()], np.int64)

    def victim(self, model: Architecture) -> Mapping[str, np.ndarray] | None:
        """The record's weights with BackdoorBench's normalisation, if they are of ``model``."""
        result = self.result()
        if not self.weights or MODELS.get(result.model_name) != model.name:
            return None
        if result.clean_data not in CLEAN_SETS:
            raise unknown("BackdoorBench data set", result.clean_data, CLEAN_SETS)
        return {
            **{f"state.{name}": value for name, value in result.state.items()},
            **CLEAN_SETS[result.clean_data].normalisation(),
        }

    def result(self) -> AttackResult:
        """What the record holds. Raises BdbenchError if it does not read."""
        if not self.record:
            raise BdbenchError("attack 'backdoorbench' needs a record: expected backdoorbench:record=DIR")
        folder = Path(self.record)
        file = folder / RESULT
        return _read(folder, file.stat().st_mtime_ns if file.is_file() else 0)

    def _title(self) -> str:
        return f"the record {self.record}"


@functools.lru_cache(maxsize=2)
def _read(folder: Path, _changed: int) -> AttackResult:
    """One record is asked for several times in a run."""
    return read(folder)
