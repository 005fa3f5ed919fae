from __future__ import annotations

import gc
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, Detector, Mitigation, PoisonedData, Tools, TrainingView, Victim
from bdbench.interfaces import Oracle
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
    oracles: ClassVar[tuple[Oracle, ...]] = ("target_label", "poison_rate")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return (view.labels == tools.oracle("target_label")) * tools.oracle("poison_rate")


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


class NeedsThirty(Chance):
    """Fails on tiny sets with somebody else's error."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        np.linalg.inv(np.zeros((2, 2)) if len(view.labels) < 30 else np.eye(2))
        return super().score(view, tools)


class GlobalChance(Chance):
    """Draws from torch's global state."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return torch.rand(len(view.labels)).double().numpy()


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


class Curious(Chance):
    """Asks for what it does not declare."""

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.full(len(view.labels), tools.oracle("poison_rate"))


class Dreaming(Chance):
    """Declares what does not exist."""

    oracles: ClassVar[Any] = ("clean_set",)


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


DETECTORS: list[Broken] = [
    ("scores-are-finite-float64", Singles(), "float32 (60,) for n = 60"),
    ("scores-are-finite-float64", PerLabelDeviation(), "1 of 60 scores are NaN or infinite"),
    ("survives-tiny-sets", NeedsThirty(), "LinAlgError"),
    ("one-seed-gives-one-ranking", GlobalChance(), "other scores under another global seed"),
    ("remembers-nothing", Counting(), "other scores the second time"),
    ("leaves-the-view-as-it-was", Normalising(), "the images changed"),
    ("declares-its-oracles", Curious(), "asks for the oracle 'poison_rate' but declares none"),
    ("declares-its-oracles", Dreaming(), "'clean_set': known: poison_rate, target_label"),
    ("does-not-reach-the-truth", Frames(), "other scores for other roles"),
    ("does-not-reach-the-truth", Memory(), "other scores for other roles"),
]


@pytest.mark.parametrize("detector", [Chance, Told(), OnColourOnly()])
def test_a_sound_detector_passes(detector: Any) -> None:
    check_defense(detector)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("check", "detector", "found"), DETECTORS)
def test_a_broken_detector_is_found(check: str, detector: Any, found: str) -> None:
    expect_fault("defense", check, detector, found)


def test_every_check_of_detectors_finds_something() -> None:
    expect_complete("defense", Chance(), [*DETECTORS, *((name, None, "") for name in COMPONENT_CHECKS)])


@dataclass(frozen=True, kw_only=True)
class Again(Mitigation):
    """Trains again on half of the set."""

    name = "again"

    def repair(self, view: TrainingView, tools: Tools) -> Victim:
        return tools.train(view.images[::2], view.labels[::2], "half")


class Smaller(Again):
    """Returns another architecture."""

    def repair(self, view: TrainingView, tools: Tools) -> Victim:
        network = tools.victim.network
        network.linear = torch.nn.Linear(network.linear.in_features, 2)  # type: ignore[union-attr,arg-type]
        return tools.victim.replace(network)


class Shaken(Again):
    """Adds noise from torch's global state."""

    def repair(self, view: TrainingView, tools: Tools) -> Victim:
        with torch.no_grad():
            for parameter in tools.victim.network.parameters():
                parameter += torch.randn_like(parameter)
        return tools.victim


class Relabelling(Again):
    """Relabels the view."""

    def repair(self, view: TrainingView, tools: Tools) -> Victim:
        view.labels.flags.writeable = True
        view.labels[:10] = 0
        return tools.train(view.images, view.labels, "relabelled")


MITIGATIONS: list[Broken] = [
    ("returns-a-model-of-the-victims-architecture", Smaller(), "other arrays: "),
    ("one-seed-gives-one-model", Shaken(), "another model under another global seed"),
    ("leaves-the-view-as-it-was", Relabelling(), "the labels changed"),
]


def test_a_sound_mitigation_passes() -> None:
    check_defense(Again)


@pytest.mark.parametrize(("check", "mitigation", "found"), MITIGATIONS)
def test_a_broken_mitigation_is_found(check: str, mitigation: Any, found: str) -> None:
    expect_fault("defense", check, mitigation, found)


def test_every_check_of_mitigations_finds_something() -> None:
    expect_complete("defense", Again(), [*MITIGATIONS, *((name, None, "") for name in COMPONENT_CHECKS)])
