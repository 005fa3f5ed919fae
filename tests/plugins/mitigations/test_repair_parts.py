"""What the repairs share: channels and where they are, clean examples and how they are used."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import BdbenchError, Recipe, Split, Victim
from bdbench_mitigations.channels import layers, outlying, pruned, scaled
from bdbench_mitigations.clean_part import accuracy, batches, furthest, halves, tuned, tuning
from tests.plugins.mitigations.repairs import clean_images, victim_of


class PreAct(nn.Module):
    """A normalisation before any convolution, one that follows a convolution, and a convolution that none follows."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(1)
        # Listed in another order than they are used in.
        self.last = nn.Conv2d(4, 2, 1)
        self.first = nn.Conv2d(1, 4, 3)
        self.after = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.after(self.first(self.before(x))).relu()).mean((2, 3))


def test_a_convolution_goes_with_the_normalisation_that_is_given_its_output() -> None:
    found = layers(victim_of(PreAct()), (8, 8, 1))
    assert [(layer.name, layer.norm is not None) for layer in found] == [("after", True), ("last", False)]
    assert [layer.convolution.out_channels for layer in found] == [4, 2]


def test_what_is_scaled_are_normalisations_or_else_convolutions() -> None:
    assert list(scaled(PreAct())) == ["before", "after"]
    assert list(scaled(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))) == ["0"]
    with pytest.raises(BdbenchError, match="no convolution of images"):
        scaled(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(BdbenchError, match="no convolution of images"):
        layers(victim_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 2))), (8, 8, 1))


@pytest.mark.parametrize("biases", [True, False])
def test_pruned_channels_give_nothing_or_their_shift_and_the_victim_stays(biases: bool) -> None:
    torch.manual_seed(0)
    victim = victim_of(PreAct())
    nn.init.normal_(victim.network.after.bias)  # type: ignore[union-attr, arg-type]
    before = {name: value.clone() for name, value in victim.network.state_dict().items()}
    gone = np.array([False, True, False, True])
    other = pruned(victim, {"after": gone}, biases=biases)
    x = torch.randn(3, 4, 2, 2)
    norm, own = other.network.after, victim.network.after
    wanted = torch.zeros(4) if biases else own.bias.detach()  # type: ignore[union-attr, operator]
    assert torch.equal(norm(x)[:, gone], wanted[gone].view(1, 2, 1, 1).expand(3, 2, 2, 2))  # type: ignore[operator]
    assert torch.equal(norm(x)[:, ~gone], own(x)[:, ~gone])  # type: ignore[operator]
    assert all(torch.equal(before[name], value) for name, value in victim.network.state_dict().items())


def test_outliers_by_hand() -> None:
    # Mean 1, deviation sqrt(12): 12 is (12 - 1) / sqrt(12) = 3.175 above.
    values = np.array([0.0] * 11 + [12.0])
    assert outlying(values, 3.17).tolist() == [False] * 11 + [True]
    assert not outlying(values, 3.18).any()
    assert not outlying(np.full(5, 0.1), 0).any() and not outlying(np.ones(1), 0).any()


def test_clean_examples_in_two_parts() -> None:
    clean = Split(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))
    fitted, held = halves(clean, 0.3)
    assert fitted.labels.tolist() == list(range(7)) and held.labels.tolist() == [7, 8, 9]
    assert np.asarray(held.images).ravel().tolist() == [7, 8, 9]
    two = Split(np.asarray(clean.images)[:2], clean.labels[:2])
    assert [len(part.labels) for share in (0.01, 0.99) for part in halves(two, share)] == [1, 1, 1, 1]
    one = Split(np.asarray(clean.images)[:1], clean.labels[:1])
    assert halves(one, 0.3) == (one, one)


def test_batches_take_every_example_once_in_a_pass_and_never_one_alone() -> None:
    clean = Split(np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1), np.arange(9))
    drawn = list(batches(clean, 4, 6, torch.Generator().manual_seed(0), "cpu"))
    assert [len(y) for _, y in drawn] == [4, 4, 2] * 2
    passes = [torch.cat([y for _, y in drawn[start : start + 3]]).tolist() for start in (0, 3)]
    assert all(sorted(set(taken)) == list(range(9)) for taken in passes) and passes[0] != passes[1]
    assert all(torch.allclose(x.flatten() * 255, y.float()) for x, y in drawn)
    assert [len(y) for _, y in batches(Split(clean.images, clean.labels), 100, 2, torch.Generator(), "cpu")] == [9, 9]


class Constant(nn.Module):
    """Says ``label`` of every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = nn.Parameter(torch.eye(4)[label])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 4) + self.label


def test_pruning_ends_before_the_first_that_costs_too_much() -> None:
    # Accuracies .4, .3, .2 and .1.
    labels = np.repeat(np.arange(4), [4, 3, 2, 1])
    held = Split(np.zeros((10, 2, 2, 1), np.uint8), labels)
    models = [victim_of(Constant(label)) for label in range(4)]
    assert [accuracy(model, held) for model in models] == [0.4, 0.3, 0.2, 0.1]

    def last(order: list[int], tolerance: float) -> int:
        steps = [functools.partial(_same, models[i]) for i in order]
        return models.index(furthest(steps, models[0], held, tolerance))

    assert last([1, 2, 3], 0.1) == 1 and last([1, 2, 3], 0.05) == 0 and last([1, 2, 3], 1) == 3
    # What comes after a drop is not tried.
    assert last([1, 3, 1], 0.2) == 1


def _same(victim: Victim) -> Victim:
    return victim


RECIPE = Recipe(epochs=9, batch_size=8, lr=0.1, label_smoothing=0.25)


def test_tuning_is_the_recipe_with_its_own_length_and_rate() -> None:
    assert tuning(RECIPE, 3, 0.5) == dataclasses.replace(RECIPE, epochs=3, lr=0.05)


def test_tuning_goes_on_from_the_start_with_the_loss_that_is_given() -> None:
    clean, calls = clean_images(6), list[Any]()
    tools: Any = SimpleNamespace(train=lambda *args, **more: calls.append((*args[1:], more)))
    loss: Any = object()
    tuned(tools, clean, "it", "start", RECIPE)  # type: ignore[arg-type]
    tuned(tools, clean, "it", "start", RECIPE, loss)  # type: ignore[arg-type]
    assert [c[1] for c in calls] == ["it", "it"] and all(np.array_equal(c[0], clean.labels) for c in calls)
    same = {"start": "start", "recipe": RECIPE}
    assert [c[2] for c in calls] == [
        {**same, "loss": None, "kept": None},
        {**same, "loss": loss, "kept": {"repair": "it"}},
    ]
