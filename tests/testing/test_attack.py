from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bdbench import Role, Streams
from bdbench.cells import metrics
from bdbench.images import preparation
from bdbench.testing import attack as checks
from bdbench.testing import check_attack
from tests.testing.broken import Broken, expect_complete, expect_fault
from tests.testing.broken_attacks import (
    AlwaysTheSame,
    AnyTarget,
    Astray,
    BeyondGoal,
    Careless,
    Counting,
    Crafted,
    Fading,
    Fickle,
    FloatChallenge,
    Forgetting,
    GlobalNoise,
    Greedy,
    GreedyGoal,
    Harmless,
    InPlace,
    Misled,
    Nothing,
    Objects,
    OfAll,
    OfOneClass,
    OfTheHour,
    OneForAll,
    OneTarget,
    OnItsOwn,
    Own,
    Reluctant,
    ScalarGoal,
    Several,
    TwiceAsMany,
    Unconvincing,
    Undecided,
    Unsaid,
    Untaught,
    WrongGoal,
)
from tests.testing.broken_sets import (
    Appending,
    Boastful,
    CleanSquare,
    Floats,
    Forgetful,
    Hidden,
    NotSoClean,
    NotSoDirty,
    OffTheEnd,
    OfTheOthers,
    OneTooMany,
    Overwritten,
    Silent,
    SoCalledControl,
    SoCalledNatural,
    Sometimes,
    Sorting,
    Square,
    Stringly,
    Terse,
    Unchanged,
    Unknown,
)

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
    ("poisons-teach-the-goal", OneForAll(), "as (1, 32, 32, 3): expected the same shape"),
    ("poisons-teach-the-goal", Forgetting(), "stamps images as NoneType: expected uint8"),
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
