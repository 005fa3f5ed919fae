"""The contracts of defenses, one for each of the five stages at which a backdoor can be met."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, cast

import numpy as np

from bdbench.components import params
from bdbench.components.interfaces import Component
from bdbench.components.workshop import Oracle, State, Tools
from bdbench.errors import BdbenchError
from bdbench.images.data import TrainingView


class Model(Protocol):
    """What a defense hands over to be used: a Victim, or anything that predicts, and may refuse to."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The labels of uint8 (n, H, W, C), int64 (n,); -1: refused."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a model detector says of a model.

    score: higher = more suspicious; flagged: whether it calls the model backdoored; targets: the labels that it takes
    for the attacker's; p_value: how likely a clean model would look at least as suspicious, if that can be told.
    """

    score: float
    flagged: bool
    targets: tuple[int, ...] = ()
    p_value: float | None = None


@dataclass(frozen=True)
class Needs:
    """What a defense will take, as far as it can tell. memory: bytes at its peak, beyond the images; models: how many
    it trains itself; None: not known.
    """

    memory: int | None = None
    models: int | None = None


@dataclass(frozen=True, kw_only=True)
class Defense(Component, ABC):
    """What defenses share.

    stage: where they act; oracles: what they are always told that a defender does not know by himself (a parameter may
    ask for more: ``param(False, oracle=...)``); assumption: one sentence, from the paper, of what a backdoor must be
    like to be met.
    """

    kind: ClassVar[str] = "defense"
    stage: ClassVar[str] = ""
    takes_training_set: ClassVar[bool] = False
    assumption: ClassVar[str] = ""
    oracles: ClassVar[tuple[Oracle, ...]] = ()

    @property
    def told(self) -> tuple[Oracle, ...]:
        """What it is told with these parameters that a defender does not know by himself."""
        return tuple(dict.fromkeys([*self.oracles, *cast(list[Oracle], params.oracles(self))]))

    @property
    def access(self) -> tuple[str, ...]:
        """All that it is given beside the model: the training set, and what it is told."""
        return (*(["training_set"] if self.takes_training_set else []), *self.told)

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        """What it takes for a training set of so many images of ``shape`` (H, W, C), told before anything is trained.

        A run for which there is too little memory is refused, with the number of examples that would fit.
        """
        return Needs()


@dataclass(frozen=True, kw_only=True)
class Detector(Defense, ABC):
    """Training set: scores its examples. The harness removes a budget of them, or what it flags, and trains again."""

    stage: ClassVar[str] = "training set"
    takes_training_set: ClassVar[bool] = True

    @abstractmethod
    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Suspicion of each training example, float64 (n,), finite, higher = more suspicious."""


@dataclass(frozen=True, kw_only=True)
class RobustTraining(Defense, ABC):
    """Training time: trains a model on the poisoned set that is not to learn the backdoor."""

    stage: ClassVar[str] = "training time"
    takes_training_set: ClassVar[bool] = True

    @abstractmethod
    def train(self, view: TrainingView, tools: Tools) -> Model:
        """The model. It is compared with the reference, plain training on the same set."""


@dataclass(frozen=True, kw_only=True)
class Mitigation(Defense, ABC):
    """After training: repairs a model, without its training set."""

    stage: ClassVar[str] = "repair"

    @abstractmethod
    def repair(self, tools: Tools) -> Model:
        """The repaired model, made of ``tools.victim``. It is compared with the victim."""


@dataclass(frozen=True, kw_only=True)
class InputDetector(Defense, ABC):
    """Test time: scores the images that a model is asked about."""

    stage: ClassVar[str] = "inputs"

    def fit(self, tools: Tools) -> State:
        """What is prepared once, before any input is seen. Default: nothing."""
        return {}

    @abstractmethod
    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """Suspicion of each of uint8 (m, H, W, C), float64 (m,), finite, whatever other images are beside it."""


@dataclass(frozen=True, kw_only=True)
class ModelDetector(Defense, ABC):
    """The model: says whether it holds a backdoor."""

    stage: ClassVar[str] = "model"

    @abstractmethod
    def inspect(self, tools: Tools) -> Verdict:
        """What it makes of ``tools.victim``."""

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float] | None:
        """What does a number of steps of its work on ``tools.victim``, and how many it usually takes; None: not known.

        By this ``bdbench inspect`` tells before work how long it will take.
        """
        return None

    def within(self, share: float, tools: Tools) -> Self | None:
        """The same with about this share of the usual work, in (0, 1); None if it cannot do with so little.

        By this ``bdbench inspect --seconds`` is kept to.
        """
        return None


def check_distinct(defenses: Sequence[Defense]) -> None:
    """Raise BdbenchError if one comes twice."""
    twice = [defense.name for place, defense in enumerate(defenses) if defense in defenses[:place]]
    if twice:
        raise BdbenchError(f"defense {twice[0]!r} is given twice with the same parameters: expected once")
