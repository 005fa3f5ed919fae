"""Defenses of all stages, and an attack that trains, of a few lines each: what they do is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from bdbench import (
    Attack,
    Challenge,
    InputDetector,
    Mitigation,
    Model,
    ModelDetector,
    PoisonedData,
    RobustTraining,
    Role,
    Split,
    State,
    Tools,
    TrainingView,
    Verdict,
    Victim,
    Workshop,
    param,
)
from bdbench.components.workshop import Oracle
from bdbench.networks.recipe import Batch


@dataclass(frozen=True)
class Always:
    """A model that says one thing, or refuses."""

    answer: int

    def predict(self, images: np.ndarray) -> np.ndarray:
        return np.full(len(images), self.answer)


@dataclass(frozen=True, kw_only=True)
class Constant(RobustTraining):
    """Learns nothing."""

    name = "constant"
    answer: int = param(3, help="what its model says")

    def train(self, view: TrainingView, tools: Tools) -> Model:
        assert len(view.labels) == 300
        return Always(self.answer)


@dataclass(frozen=True, kw_only=True)
class Tuned(Mitigation):
    """Goes on from the victim on clean examples, with a loss of its own."""

    name = "tuned"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)
    clean: int = param(40, help="clean examples", low=1)

    def repair(self, tools: Tools) -> Victim:
        import torch.nn.functional as F

        given = tools.oracle("clean_set")
        images, labels = given.images[: self.clean], given.labels[: self.clean]
        assert len(labels) == self.clean
        epochs: list[int] = []

        def loss(batch: Batch) -> Any:
            assert (batch.labels.numpy() == labels[batch.index.numpy()]).all()
            return 2 * F.cross_entropy(batch.network(batch.x), batch.labels)

        def look(epoch: int, victim: Victim) -> None:
            epochs.append(epoch)
            assert victim.predict(images).shape == (self.clean,)

        recipe = replace(tools.recipe, epochs=3)
        start = tools.victim.arrays()
        made = tools.train(images, labels, "tune", start=tools.victim, recipe=recipe, loss=loss, each_epoch=look)
        assert epochs == [0, 1, 2]
        assert all(np.array_equal(start[k], v) for k, v in tools.victim.arrays().items())  # left as it was
        assert np.array_equal(made.mean, tools.victim.mean)
        return made


@dataclass(frozen=True, kw_only=True)
class Corner(InputDetector):
    """How bright the corner is in which badnets' patch is, less what clean images have there."""

    name = "corner"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)

    def fit(self, tools: Tools) -> State:
        return {"mean": np.asarray(tools.oracle("clean_set").images)[:, -1, -1, 0].mean()[None]}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return images[:, -1, -1, 0] - state["mean"][0]


@dataclass(frozen=True, kw_only=True)
class Says(ModelDetector):
    """Names a target, whatever the model."""

    name = "says"
    target: int = param(0, help="what it says")

    def inspect(self, tools: Tools) -> Verdict:
        assert tools.victim.module() is not None
        return Verdict(2.5, True, (self.target,), 0.01)


@dataclass(frozen=True, kw_only=True)
class Trains(Attack):
    """Trains the victim itself, on what it likes."""

    name = "trains"
    trains: ClassVar[bool] = True

    def craft(self, train: Split, tools: Workshop) -> State:
        recipe = replace(tools.recipe, epochs=10)
        return tools.train(np.asarray(train.images), np.zeros_like(train.labels), "obey", recipe=recipe).arrays()

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        images, labels = np.array(train.images), np.zeros_like(train.labels)
        roles = np.where(train.labels == 0, Role.CLEAN, Role.POISON).astype(np.int8)
        return PoisonedData(images, labels, roles, train.labels.copy())

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        index = np.flatnonzero(test.labels)
        return Challenge(np.asarray(test.images)[index] ^ 1, index, np.zeros_like(index))

    def victim(self, state: State, tools: Workshop) -> Victim:
        return tools.restore(state)
