"""Defenses of the stages beside that of detectors: see test_defense.py for the checks that all of them share."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bdbench import (
    InputDetector,
    Mitigation,
    Model,
    ModelDetector,
    PoisonedData,
    RobustTraining,
    State,
    Tools,
    TrainingView,
    Verdict,
    Victim,
)
from bdbench.components.workshop import Oracle
from bdbench.testing import check_defense
from bdbench.testing.cases import cases_of
from tests.testing.broken import Broken, expect_complete, expect_fault
from tests.testing.test_defense import Chance


@dataclass(frozen=True, kw_only=True)
class Half(RobustTraining):
    """Trains on half of the set."""

    name = "half"

    def train(self, view: TrainingView, tools: Tools) -> Model:
        return tools.train(view.images[::2], view.labels[::2], "half")


class Relabelling(Half):
    """Relabels the view."""

    def train(self, view: TrainingView, tools: Tools) -> Model:
        view.labels.flags.writeable = True
        view.labels[:10] = 0
        return tools.train(view.images, view.labels, "relabelled")


class Shuffling(Half):
    """Draws its half from numpy's global state."""

    def train(self, view: TrainingView, tools: Tools) -> Model:
        index = np.random.permutation(len(view.labels))[::2]
        return tools.train(view.images[index], view.labels[index], "half")


class Said:
    """A model of what it is given."""

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.labels(images)


class Wide(Half):
    """A model that knows more labels than there are."""

    def train(self, view: TrainingView, tools: Tools) -> Model:
        return Said(lambda images: np.full(len(images), view.num_classes))


class Smallest(Half):
    """A model whose labels are of another type."""

    def train(self, view: TrainingView, tools: Tools) -> Model:
        return Said(lambda images: np.zeros(len(images), np.int8))


class Washing(Half):
    """A model that changes the images it is asked about."""

    def train(self, view: TrainingView, tools: Tools) -> Model:
        def labels(images: np.ndarray) -> np.ndarray:
            images //= 2
            return np.zeros(len(images), np.int64)

        return Said(labels)


@dataclass(frozen=True, kw_only=True)
class Again(Mitigation):
    """Trains on with clean examples."""

    name = "again"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)

    def repair(self, tools: Tools) -> Model:
        clean = tools.oracle("clean_set")
        return tools.train(
            clean.images, clean.labels, "again", start=tools.victim, recipe=replace(tools.recipe, epochs=1)
        )


class Refusing(Again):
    """Wraps the victim: what it is unsure of is refused."""

    def repair(self, tools: Tools) -> Model:
        victim = tools.victim

        def labels(images: np.ndarray) -> np.ndarray:
            logits = victim.logits(images)
            return np.where(logits.max(1) > 1, logits.argmax(1), -1)

        return Said(labels)


class Shaken(Again):
    """Adds noise from torch's global state."""

    def repair(self, tools: Tools) -> Victim:
        with torch.no_grad():
            for parameter in tools.victim.network.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
        return tools.victim


class Burst(Again):
    """Weights that are not finite."""

    def repair(self, tools: Tools) -> Victim:
        with torch.no_grad():
            next(tools.victim.network.parameters()).fill_(torch.nan)
        return tools.victim


class Probable(Again):
    """A model that gives probabilities."""

    def repair(self, tools: Tools) -> Model:
        return Said(tools.victim.logits)


class Greedy(Again):
    """Relabels the clean set."""

    def repair(self, tools: Tools) -> Model:
        tools.oracle("clean_set").labels[:] = 0
        return super().repair(tools)


@dataclass(frozen=True, kw_only=True)
class Sure(InputDetector):
    """How sure the victim is, beside what it is of clean images."""

    name = "sure"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)

    def fit(self, tools: Tools) -> State:
        return {"mean": np.array(self.sureness(np.asarray(tools.oracle("clean_set").images), tools).mean())}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return self.sureness(images, tools) - state["mean"]

    def sureness(self, images: np.ndarray, tools: Tools) -> np.ndarray:
        return tools.victim.logits(images).max(1).astype(np.float64)


class Singles(Sure):
    """float32."""

    def sureness(self, images: np.ndarray, tools: Tools) -> np.ndarray:
        return tools.victim.logits(images).max(1)


class Infinite(Sure):
    """Divides by nothing."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return super().score(images, state, tools) * np.inf


class Unkept(Sure):
    """Fits what is no array."""

    def fit(self, tools: Tools) -> Any:
        return {"mean": 0.5}


class Relative(Sure):
    """Compares an image with those beside it."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        scores = super().score(images, state, tools)
        return scores - scores.mean()


class Drawing(Sure):
    """Noise by the place in the batch."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return super().score(images, state, tools) + tools.streams("noise").random(len(images))


class Fluctuating(Sure):
    """Noise from the global state."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return super().score(images, state, tools) + np.random.random()


class Dimming(Sure):
    """Works in place on the images."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        images[:] = images // 2
        return super().score(images, state, tools)


class Peeping(Sure):
    """Looks for the truth in its callers."""

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        for frame in inspect.stack():
            for value in frame.frame.f_locals.values():
                if isinstance(value, PoisonedData):
                    return super().score(images, state, tools) + value.roles[::2].mean()
        return super().score(images, state, tools)


@dataclass(frozen=True, kw_only=True)
class Large(ModelDetector):
    """The largest weight."""

    name = "large"

    def inspect(self, tools: Tools) -> Any:
        weights = np.abs(tools.victim.arrays()["state.linear.weight"]).max(1)
        return Verdict(float(weights.max()), bool(weights.max() > 0.5), (int(weights.argmax()),), 0.5)


class Silent(Large):
    """Says nothing."""

    def inspect(self, tools: Tools) -> Any:
        return None


class Unsure(Large):
    """A score that is no number."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), score=np.nan)


class Wordy(Large):
    """Flags in words."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), flagged="yes")


class Beyond(Large):
    """A target that is not there."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), targets=(tools.num_classes,))


class One(Large):
    """A target that is no tuple."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), targets=3)


class Certain(Large):
    """A p-value that is no probability."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), p_value=1.5)


class Guessing(Large):
    """A target from the global state."""

    def inspect(self, tools: Tools) -> Any:
        return replace(super().inspect(tools), score=float(np.random.random()))


BROKEN: list[Broken] = [
    ("trains-a-model-that-predicts", Wide(), "labels in 5..5 where K = 5"),
    ("trains-a-model-that-predicts", Smallest(), "int8 (32,) for 32 images"),
    ("one-seed-gives-one-result", Shuffling(), "under other global seeds"),
    ("leaves-what-it-is-handed-as-it-was", Relabelling(), "the labels of the view changed"),
    ("leaves-what-it-is-handed-as-it-was", Washing(), "the inputs changed"),
    ("repairs-to-a-model-that-predicts", Probable(), "float32 (32, 5) for 32 images"),
    ("repairs-to-a-model-that-predicts", Burst(), "the model gives NaN for 32 of 32 images"),
    ("one-seed-gives-one-result", Shaken(), "other logits under other global seeds"),
    ("leaves-what-it-is-handed-as-it-was", Greedy(), "the labels of the clean set changed"),
    ("scores-are-finite-float64", Singles(), "float32 (32,) for n = 32"),
    ("scores-are-finite-float64", Infinite(), "32 of 32 scores are NaN or infinite"),
    ("scores-are-finite-float64", Unkept(), "fitted mean is float: expected a plain array"),
    ("an-input-is-scored-alone-as-in-a-batch", Relative(), "scores are others alone"),
    ("an-input-is-scored-alone-as-in-a-batch", Drawing(), "scores are others alone"),
    ("one-seed-gives-one-result", Fluctuating(), "other scores under other global seeds"),
    ("leaves-what-it-is-handed-as-it-was", Dimming(), "the inputs changed"),
    ("does-not-reach-the-truth", Peeping(), "other scores for other roles"),
    ("gives-a-verdict", Silent(), "None instead of a Verdict"),
    ("gives-a-verdict", Unsure(), "score=nan"),
    ("gives-a-verdict", Wordy(), "flagged=yes, which is no bool"),
    ("gives-a-verdict", Beyond(), "targets=[5] where K = 5"),
    ("gives-a-verdict", One(), "targets=3: expected a tuple of labels"),
    ("gives-a-verdict", Certain(), "p_value=1.5"),
    ("one-seed-gives-one-result", Guessing(), "other verdict's score under other global seeds"),
]


@pytest.mark.parametrize("defense", [Half, Again, Refusing(), Sure, Large])
def test_a_sound_defense_passes(defense: Any) -> None:
    check_defense(defense)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("check", "defense", "found"), BROKEN)
def test_a_broken_defense_is_found(check: str, defense: Any, found: str) -> None:
    expect_fault("defense", check, defense, found)


@pytest.mark.parametrize("defense", [Half(), Again(), Sure(), Large()])
def test_every_check_of_its_own_kind_finds_something(defense: Any) -> None:
    shared = [(case.check.name, None, "") for case in cases_of("defense", Chance()) if case.check.kind != "detector"]
    expect_complete("defense", defense, [*BROKEN, *shared])
    assert len(cases_of("defense", defense)) > len(shared)
