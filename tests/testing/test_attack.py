from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

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
    TriggerAttack,
    Victim,
    Workshop,
    metrics,
    param,
    preparation,
)
from bdbench.testing import attack as checks
from bdbench.testing import check_attack
from tests.testing.broken import Broken, expect_complete, expect_fault


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


BROKEN: list[Broken] = [
    ("says-what-it-is", Silent(), "Silent has no docstring"),
    ("says-what-it-is", Terse(), "no help for size"),
    ("comes-back-from-its-config", Forgetful(size=5), "size=3"),
    ("names-its-files-as-paths", Stringly(), "a tuple of str"),
    ("names-its-files-as-paths", Sometimes(), "other files the second time"),
    ("poisons-into-arrays-of-the-declared-types", Floats(), "images of float64"),
    ("poisons-into-arrays-of-the-declared-types", OffTheEnd(), "index in 1..200 of 200 examples"),
    ("labels-are-in-range", OneTooMany(), "labels in 10..10 where K = 10"),
    ("roles-tell-the-truth", Hidden(), "10 examples are CLEAN but changed"),
    ("roles-tell-the-truth", Boastful(), "190 examples are POISON or COVER but did not change"),
    ("roles-tell-the-truth", Unchanged(), "10 examples are POISON or COVER but did not change"),
    ("roles-tell-the-truth", Unknown(), "roles [3]"),
    ("original-labels-are-those-of-the-set", Overwritten(), "10 of 200 differ"),
    ("poisons-are-as-many-as-the-rate-says", OfTheOthers(rate=0.1), "18 poisons of 200 at rate=0.1, which asks for 20"),
    ("poisons-are-as-many-as-the-rate-says", SoCalledControl(), "10 poisons of a control"),
    ("poisons-are-as-many-as-the-rate-says", SoCalledNatural(), "10 poisons of an attack that plants nothing"),
    (
        "poisons-are-as-many-as-the-rate-says",
        TwiceAsMany(),
        "20 covers of 200 at cover_rate=0.05, which asks for 10",
    ),
    ("clean-label-changes-no-label", NotSoClean(), "10 labels changed"),
    ("clean-label-changes-no-label", NotSoDirty(), "10 poisons keep their label"),
    ("order-says-nothing-of-roles", Sorting(), "an AUROC of 1.00 by its neighbours' labels"),
    ("order-says-nothing-of-roles", Appending(), "an AUROC of 1.00 by its place"),
    ("challenges-in-arrays-of-the-declared-types", FloatChallenge(), "images of float64"),
    ("challenges-in-arrays-of-the-declared-types", Misled(), "index of int64 (90,): expected int64 (90,) in 0..99"),
    ("challenges-unless-it-is-a-control", Harmless(), "attacks none of the 100 test images"),
    ("challenges-unless-it-is-a-control", Unsaid(), "is no control and challenges nothing"),
    ("challenges-unless-it-is-a-control", SoCalledControl(), "is a control and challenges"),
    ("challenge-changes-images", InPlace(), "the images that came in, not new ones"),
    ("challenge-changes-images", Nothing(), "0 % of the images changed"),
    ("bystanders-want-their-own-label", OnItsOwn(), "10 images have their own label as their goal"),
    ("bystanders-want-their-own-label", OfAll(source=1), "80 images that are not of source=1 have another goal"),
    ("poisons-teach-the-goal", WrongGoal(), "10 of 10 poisons have another label"),
    ("poisons-teach-the-goal", Unconvincing(), "10 of 10 poisons have another label"),
    ("labels-are-in-range", Untaught(), "labels in -1..9 where K = 10"),
    ("goal-is-a-label-for-every-label", ScalarGoal(), "int instead of an array"),
    ("goal-is-a-label-for-every-label", BeyondGoal(), "labels in 1..10 where K = 10"),
    ("goal-is-a-label-for-every-label", GreedyGoal(), "goal() changed the labels in place"),
    ("crafts-plain-arrays-the-same-twice", Careless(), "other pattern under other global seeds"),
    ("crafts-plain-arrays-the-same-twice", Objects(), "model is object: expected a plain array"),
    ("state-and-streams-say-all", GlobalNoise(), "other poisoned images, challenge images under other global seeds"),
    ("state-and-streams-say-all", OfTheHour(), "other poisoned images, challenge images under other global seeds"),
    ("state-and-streams-say-all", Counting(), "other poisoned images, challenge images under other global seeds"),
    ("another-seed-poisons-other-examples", AlwaysTheSame(), "the same examples for seeds 0, 1, 2 and 3"),
    ("leaves-what-it-is-handed-as-it-was", InPlace(), "the images of the test set changed"),
    ("leaves-what-it-is-handed-as-it-was", Greedy(), "the labels of the training set changed"),
    ("leaves-what-it-is-handed-as-it-was", Fading(), "pattern changed"),
    ("hands-over-a-victim-if-it-trains", Reluctant(), "NoneType where trains = True"),
    ("hands-over-a-victim-if-it-trains", Fickle(), "other logits the second time"),
    ("refuses-a-target-that-is-not-there", AnyTarget(), "target=10 was accepted for labels 0..9"),
    ("draws-its-target-from-the-seed", OneTarget(), "target=3 for every seed"),
    ("draws-its-target-from-the-seed", Undecided(), "targets ['seed', "),
    # What a component raises itself, and a component that fits no sample.
    ("labels-are-in-range", Square(rate=0.001), "it refuses every sample"),
    ("order-says-nothing-of-roles", Square(rate=0.0001), "it refuses every sample"),
]
SOUND = [
    Square,
    Square(target="seed"),
    CleanSquare(),
    CleanSquare(rate=0.1),
    OfOneClass(),
    Crafted,
    Own(),
    Several(),
    Astray(),
]


@pytest.mark.parametrize("attack", SOUND)
def test_a_sound_attack_passes(attack: Any) -> None:
    check_attack(attack)


@pytest.mark.parametrize(("check", "attack", "found"), BROKEN)
def test_a_broken_attack_is_found(check: str, attack: Any, found: str) -> None:
    expect_fault("attack", check, attack, found)


def test_every_check_finds_something() -> None:
    expect_complete("attack", Square(), BROKEN)


def test_a_harness_that_does_not_shuffle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound attack on a set that lists class by class: it is the preparation that the check then faults."""

    class InOrder(Streams):
        def __call__(self, name: str) -> Any:
            return _Unmoved() if name == "order" else super().__call__(name)

    monkeypatch.setattr(checks, "prepare", lambda data, streams: preparation.prepare(data, streams=InOrder(0)))
    expect_fault("attack", "order-says-nothing-of-roles", Square(), "an AUROC of 1.00 by its neighbours' labels")


class _Unmoved:
    def permutation(self, index: np.ndarray) -> np.ndarray:
        return index


def test_order_scores_of_a_case_by_hand() -> None:
    """51 of each of two labels, in two blocks: the first example has only its own beside it; chance is 51/101."""
    labels = np.repeat([0, 1], 51)
    chance = 51 / 101
    scores = checks.order_scores(labels)
    # The first has 25 neighbours, on one side; the last of its block 50, of which 25 are of the other.
    assert scores[0] == pytest.approx((0 - chance) / np.sqrt(chance * (1 - chance) / 25))
    assert scores[50] == pytest.approx((0.5 - chance) / np.sqrt(chance * (1 - chance) / 50))
    labels[25] = 1
    # 50 of the label 0 are left, and they are its 50 neighbours.
    chance = 50 / 101
    assert checks.order_scores(labels)[25] == pytest.approx((1 - chance) / np.sqrt(chance * (1 - chance) / 50))


@pytest.mark.parametrize("clean", [False, True])
def test_order_scores_are_chance_where_the_order_is(clean: bool) -> None:
    """Poisons of one label, at random among the others: over 20 seeds the mean AUROC is .5."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(2000) % 10)
        roles = np.zeros(2000, np.int8)
        roles[rng.choice(np.flatnonzero((labels == 0) == clean), 100, replace=False)] = Role.POISON
        labels[roles == Role.POISON] = 0
        scores = checks.order_scores(labels)
        found.append(metrics.detection(scores, np.argsort(-scores), roles, None).auroc)
    assert abs(np.mean(found) - 0.5) < 0.04
