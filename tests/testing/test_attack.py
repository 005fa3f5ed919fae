from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bdbench import PoisonedData, Role, Split, Streams, TriggerAttack, param
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

    def altered(self, train: Split, num_classes: int, streams: Streams, **changes: Any) -> PoisonedData:
        """What the sound attack makes, with other arrays."""
        return dataclasses.replace(super().poison(train, num_classes, streams), **changes)


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


@dataclass(frozen=True, kw_only=True)
class Floats(Square):
    """Images as floats."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        made = super().poison(train, num_classes, streams)
        return dataclasses.replace(made, images=made.images / 255)


@dataclass(frozen=True, kw_only=True)
class OneTooMany(Square):
    """A label that is not there."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        labels = train.labels.copy()
        labels[0] = num_classes
        return self.altered(train, num_classes, streams, labels=labels)


@dataclass(frozen=True, kw_only=True)
class Hidden(Square):
    """Poisons that are called clean."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        return self.altered(train, num_classes, streams, roles=np.zeros(len(train.labels), np.int8))


@dataclass(frozen=True, kw_only=True)
class Boastful(Square):
    """Clean examples that are called cover."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        made = super().poison(train, num_classes, streams)
        return dataclasses.replace(made, roles=np.where(made.roles, made.roles, Role.COVER).astype(np.int8))


@dataclass(frozen=True, kw_only=True)
class Overwritten(Square):
    """Original labels that are those after the attack."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        made = super().poison(train, num_classes, streams)
        return dataclasses.replace(made, original_labels=made.labels.copy())


@dataclass(frozen=True, kw_only=True)
class OfTheOthers(Square):
    """The rate is taken of the other classes alone."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        others = float(np.mean(train.labels != self.target))
        smaller = Square(rate=self.rate * others)
        return smaller.poison(train, num_classes, streams)


@dataclass(frozen=True, kw_only=True)
class WrongGoal(Square):
    """Teaches the target and is measured on the next label."""

    def goal(self, labels: np.ndarray) -> np.ndarray:
        return np.full_like(labels, self.target + 1)


@dataclass(frozen=True, kw_only=True)
class NotSoClean(Square):
    """Says clean-label and changes labels."""

    clean_label = True

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        return Square(rate=self.rate, target=self.target).poison(train, num_classes, streams)


@dataclass(frozen=True, kw_only=True)
class NotSoDirty(Square):
    """Says dirty-label and keeps labels."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        return CleanSquare(rate=self.rate, target=self.target).poison(train, num_classes, streams)


@dataclass(frozen=True, kw_only=True)
class CleanSquare(Square):
    """The square, on target-class images."""

    name = "clean-square"
    clean_label = True


@dataclass(frozen=True, kw_only=True)
class ScalarGoal(Square):
    """Its goal is one number."""

    def goal(self, labels: np.ndarray) -> Any:
        return self.target

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        return Square(rate=self.rate).poison(train, num_classes, streams)


@dataclass(frozen=True, kw_only=True)
class InPlace(Square):
    """Stamps the images it is given."""

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        images[:, :3, :3] = 255
        return images


@dataclass(frozen=True, kw_only=True)
class Greedy(Square):
    """Relabels the set that it is given."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        made = super().poison(train, num_classes, streams)
        train.labels[:] = made.labels
        return made


@dataclass(frozen=True, kw_only=True)
class Nothing(Square):
    """A trigger that does nothing at test time."""

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return images.copy()


@dataclass(frozen=True, kw_only=True)
class GlobalNoise(Square):
    """Noise from the global state."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :3, :3] = np.random.randint(0, 256, stamped[:, :3, :3].shape)
        return stamped


@dataclass(frozen=True, kw_only=True)
class AlwaysTheSame(Square):
    """One seed for all."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        return super().poison(train, num_classes, Streams(7))


@dataclass(frozen=True, kw_only=True)
class AnyTarget(Square):
    """Takes a target that is not there."""

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        target = self.target % num_classes
        return Square(rate=self.rate, target=target).poison(train, num_classes, streams)


BROKEN: list[Broken] = [
    ("says-what-it-is", Silent(), "Silent has no docstring"),
    ("says-what-it-is", Terse(), "no help for size"),
    ("comes-back-from-its-config", Forgetful(size=5), "size=3"),
    ("poisons-into-arrays-of-the-declared-types", Floats(), "images of float64"),
    ("labels-are-in-range", OneTooMany(), "labels in 0..10 where K = 10"),
    ("roles-tell-the-truth", Hidden(), "10 examples are CLEAN but changed"),
    ("roles-tell-the-truth", Boastful(), "190 examples are POISON or COVER but did not change"),
    ("original-labels-are-those-of-the-set", Overwritten(), "10 of 200 differ"),
    ("poisons-are-as-many-as-the-rate-says", OfTheOthers(rate=0.1), "18 poisons of 200 at rate=0.1, which asks for 20"),
    ("poisons-teach-the-goal", WrongGoal(), "10 of 10 poisons have another label"),
    ("clean-label-changes-no-label", NotSoClean(), "10 labels changed"),
    ("clean-label-changes-no-label", NotSoDirty(), "10 poisons keep their label"),
    ("goal-is-a-label-for-every-label", ScalarGoal(), "int instead of an array"),
    ("goal-is-a-label-for-every-label", WrongGoal(target=9), "labels in 10..10"),
    ("trigger-keeps-type-and-shape", InPlace(), "the images that came in, not new ones"),
    ("trigger-changes-images", Nothing(), "0 % of the images changed"),
    ("leaves-its-input-as-it-was", InPlace(), "trigger() changed the images in place"),
    ("leaves-its-input-as-it-was", Greedy(), "poison() changed the training set in place"),
    ("one-seed-gives-one-attack", GlobalNoise(), "poison() gave two different sets"),
    ("another-seed-poisons-other-examples", AlwaysTheSame(), "the same examples for seeds 0, 1, 2 and 3"),
    ("refuses-a-target-that-is-not-there", AnyTarget(), "target=10 was accepted for labels 0..9"),
    # What a component raises itself, and a component that fits no sample.
    ("labels-are-in-range", Square(rate=0.001), "it refuses every sample"),
]


@pytest.mark.parametrize("attack", [Square, CleanSquare(), CleanSquare(rate=0.1)])
def test_a_sound_attack_passes(attack: Any) -> None:
    check_attack(attack)


@pytest.mark.parametrize(("check", "attack", "found"), BROKEN)
def test_a_broken_attack_is_found(check: str, attack: Any, found: str) -> None:
    expect_fault("attack", check, attack, found)


def test_every_check_finds_something() -> None:
    expect_complete("attack", Square(), BROKEN)
