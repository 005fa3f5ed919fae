from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Recipe, Record, Streams, TrainingView, Victim
from bdbench_baselines import sifting
from bdbench_baselines.meta_sift import MetaSift
from bdbench_baselines.sifting import Sifter, diluted, step, weighed
from bdbench_models.networks import SmallConvNet


class _Weigh(nn.Module):
    """A weight of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scale * losses).flatten()


def _set() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 1, 1, generator=generator), torch.randint(2, (8,), generator=generator)


def _after(model: nn.Module, scale: float, x: torch.Tensor, y: torch.Tensor, rate: float) -> torch.Tensor:
    """The losses after the virtual step, which is done in place."""
    copy = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    copy.load_state_dict(model.state_dict())
    loss = nn.CrossEntropyLoss(reduction="none")
    losses = loss(copy(x), y)
    weights = torch.sigmoid(scale * losses.detach())
    ((weights / weights.sum()) * losses).sum().backward()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter -= rate * parameter.grad  # type: ignore[operator, misc]
        return loss(copy(x), y)


@pytest.mark.parametrize("rate", [0.0, 0.1, 5.0])
def test_the_meta_gradient_is_that_of_the_virtual_step(rate: float) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        x, y = _set()
        model, weigh = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), _Weigh()
        # What the weights are made of does not count as a way from weights to losses.
        seen = _after(model, 0.3, x, y, rate)

        def outer(scale: float) -> float:
            rest = 1 - torch.sigmoid(scale * seen)
            return -float((rest / rest.sum() * _after(model, scale, x, y, rate)).sum())

        expected = (outer(0.3 + 1e-5) - outer(0.3 - 1e-5)) / 2e-5
        optimizers = (torch.optim.SGD(model.parameters(), lr=0.0), torch.optim.SGD(weigh.parameters(), lr=1.0))
        step(model, weigh, optimizers, x, y, Sifter(1, 8, 0.0, rate, 1.0, 15))
    finally:
        torch.set_default_dtype(torch.float32)
    assert 0.3 - weigh.scale.item() == pytest.approx(expected, rel=1e-5)


def test_the_model_takes_a_step_by_the_new_weights() -> None:
    x, y = _set()
    model, weigh = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), _Weigh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.5), torch.optim.SGD(weigh.parameters(), lr=1.0))
    step(model, weigh, optimizers, x, y, Sifter(1, 8, 0.5, 0.1, 1.0, 1))
    copy = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    copy.load_state_dict(before)
    losses = nn.CrossEntropyLoss(reduction="none")(copy(x), y)
    weights = torch.sigmoid(weigh.scale.detach() * losses.detach())
    (weights / weights.sum() * losses).sum().backward()
    for parameter, moved in zip(copy.parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter - 0.5 * parameter.grad, moved, atol=1e-6)


def test_virtual_steps_leave_the_running_statistics() -> None:
    x, y = _set()
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    once = nn.BatchNorm2d(3)
    once(x)
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(_Weigh().parameters(), lr=1.0))
    step(model, _Weigh(), optimizers, x, y, Sifter(1, 8, 0.1, 0.1, 1.0, 2))
    assert torch.allclose(model[0].running_mean, once.running_mean)  # type: ignore[arg-type]


def test_dilution_turns_and_shifts_a_little() -> None:
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 16, 16)
    x[:, :, 6:10, 6:10] = 1
    moved = diluted(x)
    assert moved.shape == x.shape and not torch.equal(moved, x)
    assert moved.sum((1, 2, 3)).tolist() == pytest.approx([16.0] * 200, rel=0.1)
    places = (moved * torch.arange(16.0)).sum((1, 2, 3)) / moved.sum((1, 2, 3))
    assert 1.0 < (places - 7.5).abs().max() < 2.7
    corner = torch.zeros(50, 1, 16, 16)
    corner[:, :, 15, 15] = 1
    assert diluted(corner).sum((1, 2, 3)).min() < 0.1


def test_what_is_not_learnt_weighs_one_half() -> None:
    """Whether a high loss weighs more or less is learnt, not drawn."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    victim = Victim(SmallConvNet(1, 2, 4), *np.full((2, 1), 0.5, np.float32), "cpu")
    nobody = Sifter(1, 4, 1e-4, 0.1, 0.0, 15)
    found = weighed(victim, images, np.arange(12) % 2, nobody, 0, lambda total, label: lambda steps: None)
    assert found.tolist() == [0.5] * 12
    somebody = dataclasses.replace(nobody, weight_lr=1.0)
    found = weighed(victim, images, np.arange(12) % 2, somebody, 0, lambda total, label: lambda steps: None)
    assert len(set(found.tolist())) > 6


def test_poisons_come_first_where_they_are_easy_to_find(on_digits: Callable[..., Record]) -> None:
    # In fewer steps than by default, and on a third of the images; the test below takes it as it is.
    record = on_digits("badnets:rate=.1", "meta-sift:sifters=1", subset=500)
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.75


@pytest.mark.slow  # Five models and their double gradients take a minute.
def test_it_ranks_the_patch_high_on_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "meta-sift")
    assert record.oracles == [] and record.decision is None
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.9


def test_the_score_is_what_the_mean_weight_leaves_of_one() -> None:
    weights = iter([0.2, 0.6])
    tools: Any = SimpleNamespace(saved=lambda config, make: {"weights": np.full(3, next(weights))})
    view = TrainingView(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int64), 2)
    assert MetaSift(sifters=2).score(view, tools) == pytest.approx([0.6] * 3)


def test_the_rate_of_plain_training_has_the_mean_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls to 0, so that its peak is twice that."""
    recipes: list[Recipe] = []
    monkeypatch.setattr(sifting, "weighed", lambda *given: np.zeros(3))
    tools: Any = SimpleNamespace(
        recipe=Recipe(epochs=1, batch_size=4, lr=0.1), train=lambda *given, recipe: recipes.append(recipe),
        shared_streams=Streams(0), track=None,
    )  # fmt: skip
    view = TrainingView(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int64), 2)
    MetaSift()._sifted(view, 0, tools)
    assert recipes[0].lr == pytest.approx(2e-4) and recipes[0].warmup == 0
