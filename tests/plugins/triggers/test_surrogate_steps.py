"""Steps of shifts, low frequencies and trojan patches, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Split, Victim
from bdbench_triggers import low_frequency
from bdbench_triggers.color import Color
from bdbench_triggers.low_frequency import LowFrequency
from bdbench_triggers.trojan_patch import TrojanPatch
from tests.plugins.triggers.test_surrogate_triggers import Rectified, tools_with


def test_a_shift_is_beyond_either_limit() -> None:
    rng = np.random.default_rng(0)
    images, noise = (rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8) for _ in range(2))
    assert Color(psnr=1e-3, ssim=1e-3)._beyond(images, images // 2 + 60) == 0
    # Of noise over noise: PSNR is near 8, SSIM near 0.
    assert Color(psnr=1e-3, ssim=0.9)._beyond(images, noise) == pytest.approx(1, abs=0.2)
    assert Color(psnr=80.0, ssim=1e-6)._beyond(images, images // 2 + 60) > 0.5


def test_shifts_are_tried_on_images_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Split(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4)
    seen: list[Any] = []
    monkeypatch.setattr(Color, "_tried", lambda self, *given: (seen.append(given), {"score": np.array(1.0)})[1])
    tools = tools_with(Rectified(torch.ones(2, 192), torch.ones(4, 2)), 3)
    Color(particles=2, rounds=1, examples=20, rate=0.1, target=1).craft(train, tools)
    _, labels, poisons, others = seen[0][:4]
    assert len(labels) == 20 and set(others) == set(np.flatnonzero(labels != 1))
    assert len(poisons) == 2 and set(poisons) <= set(others)


def test_the_best_pass_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = iter([0.3, 0.5, 0.2])
    monkeypatch.setattr(
        LowFrequency, "_improved", lambda *given: {"trigger": np.full((8, 8, 1), 1.0), "fooled": np.array(next(passes))}
    )
    tools = tools_with(Rectified(torch.zeros(2, 64), torch.eye(2)))
    train = Split(np.zeros((6, 8, 8, 1), np.uint8), np.zeros(6, np.int64))
    assert LowFrequency(target=1, passes=3, fooled=0.9).craft(train, tools)["fooled"] == 0.5


def test_images_that_are_fooled_already_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(low_frequency, "_deepfool", lambda *given: asked.append(1))
    # Class 2 where it is brighter than .5 in the mean, else 0; never the target, 1.
    weight = torch.stack([torch.zeros(64), -torch.ones(64), torch.ones(64)])
    victim = Victim(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), np.full(1, 0.5, np.float32), np.ones(1, np.float32), "cpu"
    )
    victim.network[1].weight.data, victim.network[1].bias.data = weight, torch.zeros(3)  # type: ignore[operator, union-attr]
    victim.network[1].bias.data[1] = -100  # type: ignore[operator, union-attr]
    images = np.full((3, 8, 8, 1), 100, np.uint8)
    attack = LowFrequency(target=1)
    attack._improved(np.full((8, 8, 1), 60.0, np.float32), images, victim, "cpu")
    assert asked == []
    attack._improved(np.zeros((8, 8, 1), np.float32), images, victim, "cpu")
    assert len(asked) == 3


def test_the_goal_is_reached_by_what_the_network_is_given() -> None:
    tools = tools_with(Rectified(torch.stack([torch.ones(64), -torch.ones(64)]), torch.eye(2)))
    train = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    state = TrojanPatch(steps=100, area=0.5, goal_value=48.0).craft(train, tools)
    victim = tools.train()
    assert victim.features(state["mark"][None])[0, 0] == pytest.approx(48, abs=0.5)
