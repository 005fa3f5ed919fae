from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import BdbenchError, Split, Victim
from bdbench_inspection.ibd_psc import IbdPsc, scaled


class Network(nn.Module):
    """Of one pixel x: the logits a x - 1 and 0, where a is the product of the scales of its layers, and 2 for label 2
    wherever x is negative."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.BatchNorm2d(1, eps=0.0) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.layers(x).flatten(1)
        return torch.cat([made - 1, torch.zeros_like(made), torch.where(made < 0, 2.0, -9.0)], 1)


def tools(layers: int, clean: list[int], labels: list[int]) -> Any:
    victim = Victim(Network(layers).eval(), np.zeros(1, np.float32), np.full(1, 1 / 255, np.float32), "cpu")
    reserve = Split(column(clean), np.array(labels, np.int64))
    return SimpleNamespace(
        victim=victim,
        clean_examples=lambda count: reserve,
        architecture=SimpleNamespace(name="net"),
        track=lambda total, label: lambda steps: None,
    )


def column(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def test_only_the_last_layers_are_scaled_and_the_model_is_left() -> None:
    victim = tools(3, [0], [0]).victim
    made = scaled(victim, 2, 1.5)
    assert [layer.weight.item() for layer in made.network.layers] == [1.0, 1.5, 1.5]
    assert [layer.weight.item() for layer in victim.network.layers] == [1.0] * 3
    # Pixels are multiplied by 255 here: 1 is 1.
    assert made.logits(column([1, 2]))[:, 0] == pytest.approx([1.25, 3.5], abs=1e-5)
    for layer in victim.network.layers:
        layer.bias.data.fill_(0.5)
    made = scaled(victim, 2, 1.5)
    # 1.5 (1.5 (1 + .5) + .75) + .75 - 1
    assert made.logits(column([1]))[0, 0] == pytest.approx(4.25, abs=1e-5)


def test_the_first_number_of_layers_that_errs_on_clean_examples_is_taken() -> None:
    # Two of three clean examples lie at 0 pixels and one at 1; that one alone is mistaken from the first layer on.
    given = tools(8, [0, 0, 1], [1, 1, 1])
    assert IbdPsc(error=0.3).fit(given)["layers"].tolist() == [1, 2, 3, 4, 5]
    assert IbdPsc(error=0.3, models=2).fit(given)["layers"].tolist() == [1, 2]
    # No number of layers errs on more; the models end with all eight.
    assert IbdPsc(error=0.6).fit(given)["layers"].tolist() == [4, 5, 6, 7, 8]
    assert IbdPsc(error=0.6).fit(tools(3, [0], [1]))["layers"].tolist() == [1, 2, 3]


def test_probabilities_of_the_own_label_by_hand() -> None:
    given, defense = tools(4, [0], [1]), IbdPsc()
    scores = defense.score(column([0, 3]), {"layers": np.array([1, 2])}, given)
    logits = [[[0 - 1, 0, -9], [3 * a - 1, 0, -9]] for a in (1.5, 2.25)]
    chances = torch.tensor(logits, dtype=torch.float64).softmax(2)
    assert scores == pytest.approx([chances[:, 0, 1].mean().item(), chances[:, 1, 0].mean().item()], abs=1e-5)


def test_the_scale_is_as_asked_for() -> None:
    given = tools(4, [0], [1])
    scores = IbdPsc(scale=2.0).score(column([3]), {"layers": np.array([1, 2])}, given)
    chances = torch.tensor([[3 * a - 1, 0, -9] for a in (2.0, 4.0)], dtype=torch.float64).softmax(1)
    assert scores == pytest.approx([chances[:, 0].mean().item()], abs=1e-5)
    # 1 crosses its border, 1 / a, at three layers of 1.2 and at one of 4; it is of label 1 below.
    given = tools(8, [0, 0, 1], [1, 1, 1])
    given.victim.network.layers[0].weight.data *= 0.6
    assert IbdPsc(error=0.3, scale=1.2).fit(given)["layers"][0] == 3
    assert IbdPsc(error=0.3, scale=4.0).fit(given)["layers"][0] == 1


def test_a_model_without_batch_normalisation_is_refused() -> None:
    with pytest.raises(BdbenchError, match="scales BatchNorm layers, of which model 'net' has none: expected"):
        IbdPsc().fit(tools(0, [0], [0]))


def test_a_planted_trigger_stays_and_clean_labels_do_not() -> None:
    class Planted(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.layers(x).flatten(1)
            # Scaled, clean images cross 4 and become label 0; what is bright is label 2 already.
            return torch.cat([8 * (made - 4), torch.zeros_like(made), 40 * (made - 100)], 1)

    given = tools(6, [1, 2, 3], [1, 1, 1])
    given.victim = given.victim.replace(Planted(6).eval())
    defense = IbdPsc()
    state = defense.fit(given)
    # 1.5^3 takes 2 and 3 across.
    assert state["layers"][0] == 2
    scores = defense.score(column([1, 2, 3, 150, 250]), state, given)
    assert scores[:3].max() < 0.9 < scores[3:].min()
