from __future__ import annotations

import gc
import inspect
import os
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, Detector, PoisonedData, Tools, TrainingView
from bdbench.components.defenses import Defense
from bdbench.components.workshop import Oracle
from bdbench.testing import check_defense
from tests.testing.broken import COMPONENT_CHECKS, Broken, expect_complete, expect_fault


@dataclass(frozen=True, kw_only=True)
class Chance(Detector):
    """Chance."""

    name = "chance"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return tools.streams("scores").random(len(view.labels))


@dataclass(frozen=True, kw_only=True)
class Told(Detector):
    """What it was told."""

    name = "told"
    oracles: ClassVar[tuple[Oracle, ...]] = ("target_labels", "poison_rate", "clean_set")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        told = np.isin(view.labels, tools.oracle("target_labels")) * tools.oracle("poison_rate")
        return told + float(np.mean(tools.oracle("clean_set").images))


class Filter(Chance):
    """The truth itself, as it declares: the ceiling."""

    oracles: ClassVar[tuple[Oracle, ...]] = ("poisons",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        tools.conclude(flagged=tools.oracle("poisons"))
        return tools.oracle("poisons").astype(np.float64)


class Deciding(Chance):
    """Saves its scores, and flags by them."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        scores = tools.saved({"chance": 1}, lambda: {"scores": super(Deciding, self).score(view, tools)})["scores"]
        tools.conclude(p_value=float(scores.min()), flagged=scores > 0.9)
        return scores


class OnColourOnly(Chance):
    """Refuses grey images."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        if view.images.shape[-1] == 1:
            raise BdbenchError("grey images: expected colour")
        return super().score(view, tools)


class Singles(Chance):
    """float32."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return super().score(view, tools).astype(np.float32)


class PerLabelDeviation(Chance):
    """Divides by a deviation that one example does not have."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        scores = super().score(view, tools)
        for label in np.unique(view.labels):
            members = view.labels == label
            scores[members] /= members.sum() - 1
        return scores


class Even(Chance):
    """Suspects everybody alike."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.ones_like(super().score(view, tools))


class NeedsThirty(Chance):
    """Fails on tiny sets with somebody else's error."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        np.linalg.inv(np.zeros((2, 2)) if len(view.labels) < 30 else np.eye(2))
        return super().score(view, tools)


class GlobalChance(Chance):
    """Draws from torch's global state."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return torch.rand(len(view.labels)).double().numpy()


class GlobalFlags(Chance):
    """Flags by the global state."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        tools.conclude(flagged=np.random.random(len(view.labels)) > 0.5)
        return super().score(view, tools)


class Places(Chance):
    """Flags by indices."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        tools.conclude(flagged=np.arange(5))
        return super().score(view, tools)


class Forgetful(Chance):
    """Concludes only while it makes a piece."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        def make() -> dict[str, np.ndarray]:
            tools.conclude(p_value=0.5, flagged=np.ones(len(view.labels), bool))
            return {"scores": super(Forgetful, self).score(view, tools)}

        return tools.saved({"forgetful": 1}, make)["scores"]


class Homeless(Defense):
    """Of no kind."""

    name = "homeless"


class Elsewhere(Chance):
    """A detector that says it repairs."""

    stage = "repair"


class Picky(Chance):
    """Refuses tiny sets in two lines."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        if len(view.labels) < 30:
            raise BdbenchError("too few\nfor me")
        return super().score(view, tools)


class Refusing(Chance):
    """Refuses tiny sets."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        if len(view.labels) < 30:
            raise BdbenchError("20 examples: expected 30")
        return super().score(view, tools)


class Counting(Chance):
    """Counts its calls."""

    calls: ClassVar[list[int]] = []

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        self.calls.append(1)
        return np.full(len(view.labels), float(len(self.calls)))


class Normalising(Chance):
    """Works in place on the view's images."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        view.images.flags.writeable = True
        view.images[:] = view.images // 2
        return super().score(view, tools)


class Dimming(Chance):
    """Works in place on the clean set."""

    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        tools.oracle("clean_set").images[:] //= 2
        return super().score(view, tools)


class Curious(Chance):
    """Asks for what it does not declare."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.full(len(view.labels), tools.oracle("poison_rate"))


class Dreaming(Chance):
    """Declares what does not exist."""

    oracles: ClassVar[Any] = ("attack",)


class Frames(Chance):
    """Looks for the truth in its callers."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        for frame in inspect.stack():
            for value in frame.frame.f_locals.values():
                if isinstance(value, PoisonedData):
                    return value.roles.astype(np.float64)
        return super().score(view, tools)


class Memory(Chance):
    """Looks for the truth in memory."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        n = len(view.labels)
        found = [o for o in gc.get_objects() if type(o) is PoisonedData and len(o.roles) == n]
        return np.sum([o.roles for o in found], axis=0).astype(np.float64)


class Sorted(Chance):
    """Scores by the place in the set."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.argsort(np.argsort(view.labels, kind="stable")).astype(np.float64)


class PerClass(Chance):
    """By the spread of each class."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        spread = np.array([view.images[view.labels == label].std() for label in range(view.num_classes)])
        return self._of(spread, view) + super().score(view, tools)

    def _of(self, spread: np.ndarray, view: TrainingView) -> np.ndarray:
        return spread[view.labels]


class Ranks(PerClass):
    """Compares with the third class."""

    def _of(self, spread: np.ndarray, view: TrainingView) -> np.ndarray:
        return spread[view.labels] - np.sort(spread)[2]


class Scaled(PerClass):
    """Divides by the spread of each class."""

    def _of(self, spread: np.ndarray, view: TrainingView) -> np.ndarray:
        return 1 / spread[view.labels]


class Leaving(Chance):
    """Ends the process, which would look like a run without a fault."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        sys.exit(0)


class Gone(Chance):
    """Ends it without a word."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        os._exit(0)


DETECTORS: list[Broken] = [
    ("scores-are-finite-float64", Leaving(), "it raised SystemExit: 0, which ends programs"),
    ("scores-are-finite-float64", Gone(), "it raised SystemExit: 0, which ends programs"),
    ("is-of-one-stage", Homeless(), "Homeless is none of Detector, RobustTraining"),
    ("is-of-one-stage", Elsewhere(), "stage 'repair' of a Detector, which is of 'training set'"),
    ("scores-are-finite-float64", Singles(), "float32 (60,) for n = 60"),
    ("scores-are-finite-float64", PerLabelDeviation(), "1 of 60 scores are NaN or infinite"),
    ("scores-tell-examples-apart", Even(), "the same score for all examples"),
    ("flags-are-one-for-each-example", Places(), "flagged is int64 (5,): expected bool (60,)"),
    ("survives-tiny-sets", NeedsThirty(), "LinAlgError"),
    ("survives-tiny-sets", PerLabelDeviation(), "1 of 20 scores are NaN or infinite"),
    ("survives-tiny-sets", Picky(), "an error of several lines"),
    ("survives-odd-sets", Ranks(), "two classes: IndexError"),
    ("survives-odd-sets", Scaled(), "40 of 40 scores are NaN or infinite"),
    ("permuting-the-examples-permutes-the-scores", Sorted(), "of 60 scores are others in another order"),
    ("one-seed-gives-one-result", GlobalChance(), "other scores under other global seeds"),
    ("one-seed-gives-one-result", GlobalFlags(), "other flags under other global seeds"),
    ("goes-on-from-what-it-saved", Forgetful(), "other p-value, flags from the pieces of the first call"),
    ("remembers-nothing", Counting(), "other scores the second time"),
    ("leaves-what-it-is-handed-as-it-was", Normalising(), "the images of the view changed"),
    ("leaves-what-it-is-handed-as-it-was", Dimming(), "the images of the clean set changed"),
    ("declares-its-oracles", Curious(), "asks for the oracle 'poison_rate' but declares none"),
    ("declares-its-oracles", Dreaming(), "'attack': known: poison_rate, target_labels"),
    ("does-not-reach-the-truth", Frames(), "other scores for other roles"),
    ("does-not-reach-the-truth", Memory(), "other scores for other roles"),
]


@pytest.mark.parametrize("detector", [Chance, Told(), Filter(), Deciding(), OnColourOnly(), Refusing()])
def test_a_sound_detector_passes(detector: Any) -> None:
    check_defense(detector)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("check", "detector", "found"), DETECTORS)
def test_a_broken_detector_is_found(check: str, detector: Any, found: str) -> None:
    expect_fault("defense", check, detector, found)


def test_every_check_of_detectors_finds_something() -> None:
    expect_complete("defense", Chance(), [*DETECTORS, *((name, None, "") for name in COMPONENT_CHECKS)])
