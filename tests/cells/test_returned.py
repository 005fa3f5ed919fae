"""What components hand back and should not: a line that says who it was, before hours of work hang on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import bdbench
from bdbench import (
    Architecture,
    Attack,
    BdbenchError,
    Challenge,
    Dataset,
    Detector,
    ImageData,
    InputDetector,
    Mitigation,
    Model,
    ModelDetector,
    PoisonedData,
    Recipe,
    RobustTraining,
    Source,
    Split,
    Streams,
    Tools,
    TrainingView,
    Verdict,
    Workshop,
)
from bdbench.components.workshop import State
from bdbench_triggers.badnets import BadNets

NOTHING: Any = None


class Net(nn.Module):
    """Of so many logits; ``feature`` is what its features are."""

    def __init__(self, logits: int, feature: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.last, self.feature = nn.Linear(64, logits), feature

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.flatten(1))


class Featureless(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


class Weighty(Net):
    """It looks at its numbers, which a network without weights has not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.sum().item() == x.sum().item()
        return super().forward(x)


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def architecture(build: Callable[[int], nn.Module]) -> Architecture:
    """A model that ``build`` makes for so many classes."""

    @dataclass(frozen=True, kw_only=True)
    class Made(Architecture):
        name = "made"

        def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
            return build(num_classes)

        def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
            return Recipe(epochs=1, batch_size=100, lr=0.1)

    return Made()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda n: Featureless(64, n),
            "has no method features: expected one that gives the penultimate",
        ),
        (lambda n: Net(n + 3, _flat), r"gives forward of \(2, 13\) for 2 images: expected \(2, 10\)"),
        (lambda n: Net(n - 3, _flat), r"gives forward of \(2, 7\) for 2 images: expected \(2, 10\)"),
        (lambda n: Net(n, lambda x: x), r"gives features of \(2, 1, 8, 8\) for 2 images: expected \(2, d\)"),
    ],
)
def test_a_network_that_gives_something_else_is_refused_before_it_is_trained(
    build: Callable[[int], nn.Module], message: str, tiny: dict[str, Any]
) -> None:
    """Three logits too many would train, and nothing would say so; features are missed by whom the fault is not."""
    with pytest.raises(BdbenchError, match=rf"^model 'made\S*' {message}"):
        bdbench.run(defense="random", **{**tiny, "model": architecture(build)})


def test_a_network_that_cannot_do_without_weights_is_trained_all_the_same(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense="random", **{**tiny, "model": architecture(lambda n: Weighty(n, _flat))})
    assert found.before.clean_accuracy > 0.2


@dataclass(frozen=True, kw_only=True)
class Scores(Detector):
    name = "gives"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return NOTHING


@dataclass(frozen=True, kw_only=True)
class Words(Scores):
    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return ["suspicious"] * len(view.labels)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Trains(RobustTraining):
    name = "gives"

    def train(self, view: TrainingView, tools: Tools) -> Model:
        return NOTHING


@dataclass(frozen=True, kw_only=True)
class Repairs(Mitigation):
    name = "gives"

    def repair(self, tools: Tools) -> Model:
        return tools.victim.network  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Fits(InputDetector):
    name = "gives"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return NOTHING


@dataclass(frozen=True, kw_only=True)
class Keeps(Scores):
    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return tools.saved({"piece": 1}, lambda: NOTHING)["scores"]


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (Scores(), r"defense 'gives' returned nothing for scores: expected numbers \(300,\)"),
        (Words(), r"defense 'gives' returned a list for scores: expected numbers \(300,\)"),
        (Fits(), r"defense 'gives' returned nothing for scores: expected numbers \(\d+,\)"),
        (Trains(), "defense 'gives' returned nothing for a model: expected a Victim, or what has a predict"),
        (Repairs(), "defense 'gives' returned a SmallConvNet for a model: expected a Victim, or what has a predict"),
        (Keeps(), "gives returned nothing to be kept: expected arrays by name"),
    ],
)
def test_a_forgotten_return_of_a_defense_is_named(defense: Any, message: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=f"^{message}$"):
        bdbench.run(defense=defense, **tiny)


@dataclass(frozen=True, kw_only=True)
class Forgets(Attack):
    name = "forgets"

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        return NOTHING

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Shows(Forgets):
    """Images in place of a challenge."""

    name = "shows"

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        labels = train.labels.copy()
        labels[:9] = (labels[:9] + 1) % 10
        roles = (np.arange(len(labels)) < 9).astype(np.int8)
        return PoisonedData(np.array(train.images), labels, roles, train.labels.copy())

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge | None:
        return np.array(test.images)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Forgets(), "attack 'forgets' returned nothing: expected a PoisonedData"),
        (Shows(), "attack 'shows' returned a ndarray: expected a Challenge"),
    ],
)
def test_a_forgotten_return_of_an_attack_is_named(attack: Attack, message: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match=f"^{message}$"):
        bdbench.run(defense="random", **{**tiny, "attack": attack})


@dataclass(frozen=True, kw_only=True)
class Lies(Shows):
    """A poisoned set and a challenge in which one thing is not so."""

    name = "lies"
    does: str = "nothing"

    def settled(self, num_classes: int, streams: Streams) -> Any:
        return 5 if self.does == "settles" else self

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        made = super().poison(train, state, tools)
        images, labels, roles = made.images.copy(), made.labels.copy(), made.roles.copy()
        original = made.original_labels.copy()
        if self.does == "clean":
            images[20] = 255 - images[20]
        elif self.does == "label":
            labels[20] = (labels[20] + 1) % 10
        elif self.does == "original":
            original[20] = (original[20] + 1) % 10
        elif self.does == "none":
            roles[:], labels = 0, train.labels.copy()
        elif self.does == "list":
            return PoisonedData(images.tolist(), labels, roles, original)
        return PoisonedData(images, labels, roles, original)

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge | None:
        count = len(test.labels)
        images, goal = 255 - np.array(test.images), (test.labels + 1) % 10
        return Challenge(images.tolist() if self.does == "shown list" else images, np.arange(count), goal)

    def victim(self, state: State, tools: Workshop) -> Any:
        return 5 if self.does == "victim" else None


@dataclass(frozen=True, kw_only=True)
class Promises(Lies):
    """To train the victim."""

    name = "promises"
    trains: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("clean", "changed 1 examples that it calls CLEAN"),
        ("label", "changed 1 examples that it calls CLEAN"),
        ("original", "returned original labels that are not those of the clean set"),
        ("none", "plants something and returned no poison"),
        ("list", "returned a list for images: expected an array"),
        ("shown list", "returned a list for images of a challenge: expected an array"),
        ("settles", "is settled as an int: expected a Lies"),
        ("victim", "returned an int for a victim: expected a Victim"),
    ],
)
def test_what_an_attack_says_of_its_set_is_compared_with_the_clean_one(
    does: str, message: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(BdbenchError, match=f"^attack 'lies' {message}"):
        bdbench.run(defense="random", **{**tiny, "attack": Lies(does=does)})


def test_an_attacker_who_trains_returns_what_he_trained(tiny: dict[str, Any]) -> None:
    assert bdbench.run(defense="none", **{**tiny, "attack": Lies()}).config["data"]["poisons"] == 9
    with pytest.raises(BdbenchError, match="attack 'promises' trains the victim and returned nothing"):
        bdbench.run(defense="none", **{**tiny, "attack": Promises()})


@pytest.mark.parametrize("chosen", [[3, 3, 4], [-1, 2], [0.5, 1.5], [400]])
def test_what_is_chosen_are_different_examples(chosen: list[float], tiny: dict[str, Any]) -> None:
    picks = type("Picks", (BadNets,), {"chosen": lambda *_: np.array(chosen), "name": "picks"})
    with pytest.raises(BdbenchError, match="attack 'picks' chose .*: expected different integers in"):
        bdbench.run(defense="random", **{**tiny, "attack": picks()})


@dataclass(frozen=True, kw_only=True)
class Years(Dataset):
    """Classes that are called by integers."""

    name = "years"

    def read(self, source: Source) -> ImageData:
        images, labels = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 2
        return ImageData(Split(images, labels), Split(images, labels), (2025, 2026))  # type: ignore[arg-type]


def test_names_of_classes_are_texts(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="^class 0 is called 2025, of int: expected names that are str$"):
        bdbench.run(defense="random", **{**tiny, "dataset": Years()})


@dataclass(frozen=True, kw_only=True)
class Sure(ModelDetector):
    """Has a p-value of NaN."""

    name = "sure"

    def inspect(self, tools: Tools) -> Verdict:
        return Verdict(1.0, True, p_value=float("nan"))


def test_a_p_value_that_is_none_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="defense 'sure' returned .*p_value=nan.*: expected a Verdict"):
        bdbench.run(defense=Sure(), **tiny)
