"""Attacks of which one thing is wrong: what they challenge with, craft, teach and do to what they are handed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bdbench import (
    ANY_OTHER,
    Challenge,
    CraftedTrigger,
    PoisonedData,
    Role,
    SourceSpecific,
    Split,
    State,
    Streams,
    Victim,
    Workshop,
    param,
)
from tests.testing.broken_sets import Challenging, Square


class OneForAll(Square):
    """Stamps one image, which every poison would become."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return super().stamp(images, streams)[:1]


class Forgetting(Square):
    """Forgets to return what it stamped."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        super().stamp(images, streams)
        return None  # type: ignore[return-value]


class WrongGoal(Challenging):
    """Teaches the target and is measured on the next label."""

    def changes(self, made: Challenge, test: Split) -> dict[str, Any]:
        goal = (made.goal + 1) % 10
        return {"goal": np.where(goal == test.labels[made.index], (goal + 1) % 10, goal)}


class FloatChallenge(Challenging):
    """Challenges with floats."""

    def changes(self, made: Challenge, test: Split) -> dict[str, Any]:
        return {"images": made.images / 255}


class Misled(Challenging):
    """An index beyond the test set."""

    def changes(self, made: Challenge, test: Split) -> dict[str, Any]:
        return {"index": made.index + len(test.labels)}


class Harmless(Challenging):
    """Wants of every image its own label."""

    bystanders = True

    def changes(self, made: Challenge, test: Split) -> dict[str, Any]:
        return {"goal": test.labels[made.index]}


class Unsaid(Square):
    """Attacks nothing, and does not say so."""

    def challenge(self, test: Split, state: State, tools: Workshop) -> Any:
        return None


class OnItsOwn(Challenging):
    """Leaves images of the target class in its challenge."""

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        images = self.stamp(np.asarray(test.images), tools.streams)
        return Challenge(images, np.arange(len(images)), np.full(len(images), self.target))


@dataclass(frozen=True, kw_only=True)
class OfOneClass(SourceSpecific):
    """A white square that works on one class."""

    name = "of-one-class"
    rate: float = param(0.05, help="poisons / size of the whole training set")

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return Square().stamp(images, streams)


class TwiceAsMany(OfOneClass):
    """Twice the covers that are asked for."""

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        values = {**vars(self), "cover_rate": 2 * self.cover_rate}
        return OfOneClass(**values).poison(train, state, tools)


class OfAll(OfOneClass):
    """Says one class, and challenges with all."""

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        made = super().challenge(test, state, tools)
        return dataclasses.replace(made, goal=np.full_like(made.goal, self.target))


class ScalarGoal(Square):
    """Its goal is one number."""

    def goal(self, labels: np.ndarray, num_classes: int) -> Any:
        return self.target


class BeyondGoal(Square):
    """Wants a label that is not there."""

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        return labels + 1


class Astray(Square):
    """Wants any other label, and teaches one at random."""

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        return np.full_like(labels, ANY_OTHER)

    def taught(self, labels: np.ndarray, tools: Workshop) -> np.ndarray:
        return (labels + tools.streams("labels").integers(1, tools.num_classes, len(labels))) % tools.num_classes


class Untaught(Astray):
    """Wants any other label, and says so in its poisons."""

    def taught(self, labels: np.ndarray, tools: Workshop) -> np.ndarray:
        return self.goal(labels, tools.num_classes)


class Unconvincing(Astray):
    """Wants any other label, and teaches the own one."""

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        made = super().poison(train, state, tools)
        return dataclasses.replace(made, labels=made.original_labels)


class GreedyGoal(Square):
    """Changes the labels that it is asked about."""

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        labels[:] = self.target
        return labels.copy()


class InPlace(Square):
    """Stamps the images it is given."""

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        images = np.asarray(test.images)
        images[:, :3, :3] = 255
        return Challenge(images, np.arange(len(images)), np.full(len(images), self.target))


class Greedy(Square):
    """Relabels the set that it is given."""

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        made = super().poison(train, state, tools)
        train.labels[:] = made.labels
        return made


class Nothing(Square):
    """A trigger that does nothing at test time."""

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return images.copy()


class GlobalNoise(Square):
    """Noise from the global state."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :3, :3] = np.random.randint(0, 256, stamped[:, :3, :3].shape)
        return stamped


class OfTheHour(Square):
    """A trigger that changes with the time of day."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :3, :3] = int(time.time() // 3600) % 256
        return stamped


class Counting(Square):
    """A trigger that changes from call to call."""

    calls: ClassVar[list[int]] = []

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        self.calls.append(1)
        stamped = images.copy()
        stamped[:, :3, :3] = len(self.calls) % 256
        return stamped


class AlwaysTheSame(Square):
    """One seed for all."""

    def chosen(self, train: Split, goal: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        return np.flatnonzero(self.sources(train.labels, goal))[::10][: round(self.rate * len(train.labels))]


class AnyTarget(Square):
    """Takes a target that is not there."""

    def settled(self, num_classes: int, streams: Streams) -> Any:
        return dataclasses.replace(self, target=self.target % num_classes)


class OneTarget(Square):
    """Its target is the same for every seed."""

    def settled(self, num_classes: int, streams: Streams) -> Any:
        asked = 3 if self.target == "seed" else self.target
        return super().settled(num_classes, streams) if asked == self.target else dataclasses.replace(self, target=3)


class Undecided(Square):
    """Does not draw its target."""

    def settled(self, num_classes: int, streams: Streams) -> Any:
        return self if self.target == "seed" else super().settled(num_classes, streams)


@dataclass(frozen=True, kw_only=True)
class Crafted(CraftedTrigger):
    """A trigger from the gradients of a surrogate."""

    name = "crafted"

    def craft(self, train: Split, tools: Workshop) -> State:
        surrogate = tools.train(np.asarray(train.images)[:50], train.labels[:50], "surrogate")
        weight = next(surrogate.network.parameters()).detach().numpy()
        return {"pattern": np.full((3, 3, 1), int(1e6 * abs(float(weight.mean()))) % 200 + 55, np.uint8)}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :3, :3] = state["pattern"]
        return stamped


class Careless(Crafted):
    """Crafts from the global state."""

    def craft(self, train: Split, tools: Workshop) -> State:
        return {"pattern": np.random.randint(0, 256, (3, 3, 1)).astype(np.uint8)}


class Objects(Crafted):
    """Crafts what no disk takes."""

    def craft(self, train: Split, tools: Workshop) -> Any:
        return {**super().craft(train, tools), "model": np.array([object()])}


class Fading(Crafted):
    """Changes what it crafted."""

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        stamped = super().stamp_with(images, state, streams, device)
        state["pattern"][:] //= 2
        return stamped


@dataclass(frozen=True, kw_only=True)
class Own(Square):
    """Trains the victim itself."""

    name = "own"
    trains = True

    def craft(self, train: Split, tools: Workshop) -> State:
        return tools.train(np.asarray(train.images), train.labels, "own").arrays()

    def victim(self, state: State, tools: Workshop) -> Victim | None:
        return tools.restore(state)


class Reluctant(Own):
    """Says that it trains, and hands over nothing."""

    def victim(self, state: State, tools: Workshop) -> None:
        return None


class Fickle(Own):
    """Hands over another model every time."""

    def victim(self, state: State, tools: Workshop) -> Victim:
        victim = tools.restore(state)
        return victim.replace(tools.network(str(time.perf_counter_ns())))


class Several(Square):
    """A challenge with a row for each image and each of three targets."""

    def goals(self) -> Iterable[int]:
        return range(3)

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        made = super().poison(train, state, tools)
        poisons = np.flatnonzero(made.roles == Role.POISON)
        made.labels[poisons] = np.where(train.labels[poisons] < 3, 0, np.arange(len(poisons)) % 3)
        return made

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        rows = [(i, g) for g in self.goals() for i in range(len(test.labels)) if test.labels[i] != g]
        index, goal = np.array(rows).T
        return Challenge(self.stamp(np.asarray(test.images)[index], tools.streams), index, goal)
