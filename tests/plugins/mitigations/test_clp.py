from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import BdbenchError
from bdbench_mitigations.channels import Layer, layers, outlying
from bdbench_mitigations.clp import ChannelLipschitzness, lipschitz
from tests.plugins.mitigations.repairs import BAD, gone, handed, planted, rates, victim_of


def test_the_bound_by_hand_and_by_power_iteration() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 2, (1, 2), bias=False), nn.BatchNorm2d(2)
    # Of rank one: the norm is the product of those of (1, 2, 2) and (3, 4).
    convolution.weight.data[0, :, 0] = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert lipschitz(Layer("", convolution, None))[0] == pytest.approx(15)
    norm.weight.data[:] = torch.tensor([-2.0, 1.0])
    norm.running_var = torch.tensor([4.0, 1.0]) - norm.eps
    bounds = lipschitz(Layer("", convolution, norm))
    assert bounds[0] == pytest.approx(15)
    kernel, v = convolution.weight.data[1, :, 0].double(), torch.ones(2, dtype=torch.float64)
    for _ in range(200):
        v = kernel.T @ kernel @ v
        v /= v.norm()
    assert bounds[1] == pytest.approx(float((kernel @ v).norm()))


def test_a_planted_channel_is_pruned_and_nothing_else(tmp_path: Path) -> None:
    victim = planted()
    before = rates(victim)
    assert before == (1, 1)
    tools = handed(ChannelLipschitzness(), victim, tmp_path)
    repaired = ChannelLipschitzness().repair(tools)
    assert gone(repaired) == [BAD] and gone(victim) == []
    assert gone(ChannelLipschitzness(u=3.5).repair(tools)) == []
    accuracy, success = rates(repaired)
    assert accuracy == 1 and success < 0.1


def test_each_layer_has_its_own_mean() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3), nn.Flatten())
    network[0].weight.data *= 100
    network[2].weight.data[7] *= 30
    bounds = [outlying(lipschitz(layer), 3) for layer in layers(victim_of(network), (8, 8, 1))]
    assert not bounds[0].any() and np.flatnonzero(bounds[1]).tolist() == [7]


def test_a_model_without_convolutions_is_refused(tmp_path: Path) -> None:
    tools = handed(ChannelLipschitzness(), victim_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 2))), tmp_path)
    with pytest.raises(BdbenchError, match="no convolution"):
        ChannelLipschitzness().repair(tools)


def test_clp_takes_the_shift_as_well(tmp_path: Path) -> None:
    clp = ChannelLipschitzness()
    repaired: Any = clp.repair(handed(clp, planted(), tmp_path)).network
    assert repaired.norm.bias[BAD] == 0
