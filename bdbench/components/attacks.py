"""The contract of attacks, and what trigger attacks share.

An attack crafts what it needs (a trigger, a generator; a stage that is computed once), poisons a training set, and
challenges a model at test time. The last two are pure functions of what was crafted and of random streams.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from bdbench.components.interfaces import Component
from bdbench.components.params import param
from bdbench.components.workshop import State, Workshop
from bdbench.errors import BdbenchError
from bdbench.images.data import Challenge, PoisonedData, Role, Split
from bdbench.seeds import Streams

if TYPE_CHECKING:
    from bdbench.networks.training import Victim


@dataclass(frozen=True, kw_only=True)
class Attack(Component, ABC):
    """Poisons a training set, and challenges a model with test images.

    control: nothing is attacked, so that what a defense does there is what it costs; plants: the training set is
    poisoned (False: models are challenged with what clean data taught them); trains: the attacker trains the victim
    himself, and hands it over (the threat model); foreign: the poisoned set was made elsewhere, of the whole training
    part, so that clean examples can be set apart from the test part only.
    """

    kind: ClassVar[str] = "attack"
    control: ClassVar[bool] = False
    plants: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    foreign: ClassVar[bool] = False

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """The attack with what its parameters leave to the seed drawn. Raises BdbenchError if they do not fit."""
        return self

    def craft(self, train: Split, tools: Workshop) -> State:
        """What takes long and is computed once: a stage, resumable inside by ``tools.saved``. Default: nothing."""
        return {}

    @abstractmethod
    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """Poison the training set. Raises BdbenchError if the parameters do not fit it."""

    @abstractmethod
    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge | None:
        """What a model is tried with; None: nothing is attacked."""

    def victim(self, state: State, tools: Workshop) -> Victim | None:
        """The victim, where the attacker has trained it; None, the default: the harness trains it."""
        return None


@dataclass(frozen=True, kw_only=True)
class TriggerAttack(Attack, ABC):
    """An attack that stamps a trigger on chosen examples of one target class or of all the others.

    A subclass says what the trigger does to images (``stamp``), and whether it is clean-label. All else has a default
    that it may change: another trigger at test time, other goals, other sources, covers. What is drawn from
    ``streams("trigger")`` is the same in training and at test time. bystanders: test images on which the trigger is to
    do nothing are part of the challenge.
    """

    clean_label: ClassVar[bool] = False
    bystanders: ClassVar[bool] = False
    target: Literal["seed"] | int = param(
        0, help="the label or class that the trigger is to give (seed: drawn from the seed)", low=0
    )
    rate: float = param(0.05, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With a target that is a label of the set. Raises BdbenchError for another."""
        if self.target == "seed":
            return dataclasses.replace(self, target=int(streams("target").integers(num_classes)))
        if self.target >= num_classes:
            raise BdbenchError(f"target={self.target} is not there: expected a label in 0..{num_classes - 1}")
        return self

    @abstractmethod
    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The trigger on uint8 (n, H, W, C), at training time; returns new uint8 images."""

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The trigger at test time: the same stamp, unless a subclass says otherwise."""
        return self.stamp(images, streams)

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The chosen training images (m, H, W, C), which were examples ``chosen``, as poisons: stamped."""
        return self.stamp(images, tools.streams)

    def triggered(self, images: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Test images (m, H, W, C) with the trigger."""
        return self.trigger(images, tools.streams)

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The label wanted of triggered images with the true labels (n,), int64 (n,): the target; or ANY_OTHER."""
        return np.full_like(labels, self.target)

    def taught(self, labels: np.ndarray, tools: Workshop) -> np.ndarray:
        """The label that each training example, int64 (n,), has as a poison: its goal, unless that is not one label."""
        return self.goal(labels, tools.num_classes)

    def sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Which examples may become poisons, bool (n,): of the target class if clean-label, else of the others."""
        return labels == goal if self.clean_label else labels != goal

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """Stamp ``round(rate * n)`` of the sources, and give them the label that they are to teach."""
        images, labels = np.array(train.images), train.labels.copy()
        goal = _integers(self.name, self.taught(train.labels, tools), len(labels))
        chosen = _places(self.name, self.chosen(train, goal, state, tools), len(labels))
        images[chosen] = self._checked(self.poisoned(images[chosen], chosen, state, tools), images[chosen])
        labels[chosen] = goal[chosen]
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        roles[chosen] = Role.POISON
        return PoisonedData(images, labels, roles, train.labels.copy())

    def chosen(self, train: Split, goal: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The examples to poison, sorted indices: drawn from the sources, unless a subclass knows better."""
        sources = np.flatnonzero(_mask(self.name, "sources", self.sources(train.labels, goal), len(train.labels)))
        count = round(self.rate * len(train.labels))
        if not 1 <= count <= len(sources):
            pool = f"{len(sources)} {'in the target class' if self.clean_label else 'that it may poison'}"
            raise BdbenchError(
                f"rate={self.rate:g} asks for {count} poisons of {len(train.labels)} training examples: "
                f"expected between 1 and the {pool}"
            )
        return np.sort(tools.streams("choice").choice(sources, count, replace=False))

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """Every test image whose goal is another label than its own, triggered; bystanders too, if there are any."""
        goal = _integers(self.name, self.goal(test.labels, tools.num_classes), len(test.labels))
        index = np.arange(len(goal)) if self.bystanders else np.flatnonzero(goal != test.labels)
        images = np.asarray(test.images)[index]
        return Challenge(self._checked(self.triggered(images, state, tools), images), index, goal[index])

    def _checked(self, stamped: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """Images with a trigger, one for each that was given: a single one would be taken for all of them."""
        found = stamped.dtype if isinstance(stamped, np.ndarray) else type(stamped).__name__
        if found != np.uint8:
            raise BdbenchError(f"attack {self.name!r} stamps images as {found}: expected uint8")
        if given is not None and stamped.shape != given.shape:
            shapes = f"images of {given.shape} as {stamped.shape}"
            raise BdbenchError(f"attack {self.name!r} stamps {shapes}: expected the same shape")
        return stamped


@dataclass(frozen=True, kw_only=True)
class Covers(TriggerAttack, ABC):
    """With cover examples: changed images that keep their label, so that the trigger is learnt narrowly."""

    cover_rate: float = param(0.05, help="covers / size of the whole training set", low=0, high=1)

    def cover(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """What makes covers of uint8 (m, H, W, C): the stamp, unless a subclass says otherwise."""
        return self.stamp(images, streams)

    def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Which examples may become covers, bool (n,), if they are no poisons: all."""
        return np.ones(len(labels), bool)

    def covered(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The chosen training images (m, H, W, C), which were examples ``chosen``, as covers."""
        return self.cover(images, tools.streams)

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """The poisons, and then ``round(cover_rate * n)`` covers among what is left."""
        made = super().poison(train, state, tools)
        goal = self.goal(train.labels, tools.num_classes)
        may = _mask(self.name, "cover_sources", self.cover_sources(train.labels, goal), len(train.labels))
        pool = np.flatnonzero(may & (made.roles == Role.CLEAN))
        count = round(self.cover_rate * len(train.labels))
        if count > len(pool):
            raise BdbenchError(
                f"cover_rate={self.cover_rate:g} asks for {count} covers of {len(train.labels)} training examples: "
                f"expected at most the {len(pool)} that may be covers"
            )
        chosen = np.sort(tools.streams("covers").choice(pool, count, replace=False))
        if count:
            covers = self.covered(made.images[chosen], chosen, state, tools)
            made.images[chosen] = self._checked(covers, made.images[chosen])
            made.roles[chosen] = Role.COVER
        return made


@dataclass(frozen=True, kw_only=True)
class SourceSpecific(Covers, ABC):
    """The trigger gives the target to images of one class only; elsewhere it is to do nothing, which covers teach."""

    bystanders: ClassVar[bool] = True
    source: Literal["seed"] | int = param(
        "seed", help="the class that the trigger works on (seed: drawn from the seed, never the target)", low=0
    )

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With a source that is another label than the target. Raises BdbenchError for others."""
        attack = super().settled(num_classes, streams)
        assert attack.target != "seed"
        if attack.source == "seed":
            others = np.setdiff1d(np.arange(num_classes), [attack.target])
            return dataclasses.replace(attack, source=int(streams("source").choice(others)))
        if attack.source >= num_classes or attack.source == attack.target:
            raise BdbenchError(
                f"source={attack.source} is not allowed: expected a label in 0..{num_classes - 1} other than "
                f"target={attack.target}"
            )
        return attack

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The target for the source class, its own label for any other."""
        return np.where(labels == self.source, self.target, labels)

    def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Neither of the source nor of the target class."""
        return (labels != self.source) & (labels != self.target)


@dataclass(frozen=True, kw_only=True)
class CraftedTrigger(TriggerAttack, ABC):
    """A trigger attack whose trigger is crafted: ``craft`` makes the state, ``stamp_with`` applies it."""

    @abstractmethod
    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """The trigger on uint8 (n, H, W, C), by what was crafted; returns new uint8 images."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Not without what was crafted: raises TypeError."""
        raise TypeError(f"attack {self.name!r} stamps with what it crafted: call stamp_with")

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The chosen training images, stamped."""
        return self.stamp_with(images, state, tools.streams, tools.device)

    def triggered(self, images: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Test images, stamped."""
        return self.stamp_with(images, state, tools.streams, tools.device)


# No method: an attack may have one of any private name.
def _mask(name: str, what: str, made: np.ndarray, count: int) -> np.ndarray:
    """Which examples an attack may take; numbers that are no mask would be taken for examples."""
    mask = np.asarray(made)
    if mask.dtype != bool or mask.shape != (count,):
        raise BdbenchError(f"attack {name!r} has {what} of {mask.dtype} {mask.shape}: expected bool ({count},)")
    return mask


def _places(name: str, chosen: np.ndarray, count: int) -> np.ndarray:
    places = np.asarray(chosen)
    fits = places.ndim == 1 and np.issubdtype(places.dtype, np.integer)
    if (
        not fits
        or len(np.unique(places)) != len(places)
        or (len(places) and not 0 <= places.min() <= places.max() < count)
    ):
        raise BdbenchError(
            f"attack {name!r} chose {places.dtype} {places.shape}: expected different integers in 0..{count - 1}"
        )
    return places


def _integers(name: str, goal: np.ndarray, count: int) -> np.ndarray:
    """The labels that an attack teaches; numbers that are no integers would be rounded where they are assigned."""
    array = isinstance(goal, np.ndarray)
    if not array or goal.shape != (count,) or not np.issubdtype(goal.dtype, np.integer):
        found = f"{goal.dtype} {goal.shape}" if array else type(goal).__name__
        raise BdbenchError(f"attack {name!r} teaches labels of {found}: expected integers ({count},)")
    return goal
