from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Architecture, BdbenchError, Recipe
from bdbench.testing import check_model
from tests.testing.broken import COMPONENT_CHECKS, Broken, expect_complete, expect_fault


class Network(nn.Module):
    """One hidden layer, which broken networks change."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, 5)
        self.linear = nn.Linear(5, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden(x.flatten(1)).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


@dataclass(frozen=True, kw_only=True)
class Hidden(Architecture):
    """One hidden layer."""

    name = "hidden"
    network = Network

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return self.network(shape[0] * shape[1] * shape[2], num_classes)

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        return Recipe(epochs=2, batch_size=8, lr=1e-2)


class LargeOnly(Hidden):
    """Refuses small images."""

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        if shape[0] < 32:
            raise BdbenchError("too small: expected 32 pixels a side")
        return super().build(shape, num_classes)


class TenClasses(Hidden):
    """Always ten classes."""

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return super().build(shape, 10)


class Maps(Hidden):
    """Features that are maps."""

    class network(Network):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return self.hidden(x.flatten(1))[:, :, None]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.features(x).flatten(1))


class Fixed(Hidden):
    """Weights from a seed of its own."""

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        torch.manual_seed(0)
        return super().build(shape, num_classes)


class CutOff(Hidden):
    """No gradient reaches the hidden layer."""

    class network(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.features(x).detach())


class ByBatch(Hidden):
    """Centres each batch."""

    class network(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.mean(0))


class Elsewhere(Hidden):
    """Keeps a part of itself outside the state dict."""

    class network(Network):
        def __init__(self, inputs: int, classes: int) -> None:
            super().__init__(inputs, classes)
            self.scale = torch.randn(5)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return super().features(x) * self.scale


class NoRecipe(Hidden):
    """No recipe for a set it does not know."""

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        return {"digits": super().default_recipe(dataset, shape)}[dataset]


class Dropping(Hidden):
    """Dropout, from torch's global generator."""

    class network(Network):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(super().features(x), 0.5, self.training)


class DroppingByItself(Hidden):
    """Dropout from a source of its own, which nobody seeds."""

    class network(Network):
        def __init__(self, inputs: int, classes: int) -> None:
            super().__init__(inputs, classes)
            self.source = np.random.default_rng()

        def features(self, x: torch.Tensor) -> torch.Tensor:
            features = super().features(x)
            mask = torch.from_numpy(self.source.random(features.shape) < 0.5)
            return features * mask if self.training else features


class DroppingByNumpy(Hidden):
    """Dropout from numpy's global state."""

    class network(Network):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            features = super().features(x)
            return features * torch.from_numpy(np.random.random(features.shape) < 0.5) if self.training else features


class Seeding(Hidden):
    """Seeds Python's global state."""

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        random.seed(0)
        return super().build(shape, num_classes)


class OneWay(Hidden):
    """No gradient reaches the pixels."""

    class network(Network):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return super().features(x.round().detach())


class TwoFaced(Hidden):
    """Judges otherwise where a gradient is asked for."""

    class network(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0.01 * torch.is_grad_enabled()


class NoneForARecipe(Hidden):
    """Says nothing of how it is trained."""

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        return None  # type: ignore[return-value]


class Untrained(Hidden):
    """Would be recorded as a victim that was never trained."""

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        return Recipe(epochs=0, batch_size=8, lr=0.1)


BROKEN: list[Broken] = [
    ("trains-and-is-restored", NoneForARecipe(), "a default_recipe of NoneType: expected a bdbench.Recipe"),
    ("trains-and-is-restored", Untrained(), "a recipe of 0 epochs, which trains nothing"),
    ("forward-gives-logits", TenClasses(), "(4, 10) for 4 images of (8, 8, 1)"),
    ("features-are-one-vector-an-image", Maps(), "(4, 5, 1) for 4 images"),
    ("torchs-seed-gives-the-weights", Fixed(), "the same weights under another seed"),
    ("gradients-reach-every-parameter", CutOff(), "hidden.weight gets no gradient"),
    ("an-image-is-judged-by-itself", ByBatch(), "other logits without the rest of the batch"),
    ("trains-and-is-restored", Elsewhere(), "other logits after it was kept and restored"),
    ("trains-and-is-restored", NoRecipe(), "KeyError"),
    ("trains-the-same-twice", DroppingByItself(), "other state.hidden.weight, state.hidden.bias"),
    ("trains-the-same-twice", DroppingByNumpy(), "the global random state of numpy moved"),
    ("trains-the-same-twice", Seeding(), "the global random state of Python moved"),
    ("is-differentiable-with-respect-to-pixels", OneWay(), "no gradient"),
    ("is-differentiable-with-respect-to-pixels", TwoFaced(), "logits that are 0.01 apart"),
]


@pytest.mark.parametrize("model", [Hidden, LargeOnly(), Dropping()])
def test_a_sound_model_passes(model: Any) -> None:
    check_model(model)


@pytest.mark.parametrize(("check", "model", "found"), BROKEN)
def test_a_broken_model_is_found(check: str, model: Any, found: str) -> None:
    expect_fault("model", check, model, found)


def test_every_check_finds_something() -> None:
    expect_complete("model", Hidden(), [*BROKEN, *((name, None, "") for name in COMPONENT_CHECKS)])
