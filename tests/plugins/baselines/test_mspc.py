from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Streams, TrainingView
from bdbench_baselines.mspc import MaskAwareConsistency
from bdbench_baselines.scaling import better_mask, consistency, scaled

RNG = np.random.default_rng(0)
SETTINGS: dict[str, Any] = {"batch": 10, "lr": 0.1, "sparsity": 0.01, "shift": 0.1, "scales": [2, 5]}


class Sees(nn.Module):
    """Label 2 for images with a bright corner, else 0 or 1 by whether the image is dark or bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trigger, mean = x[:, 0, 0, 0], x.mean((1, 2, 3))
        return 8 * torch.stack([0.6 - mean, mean - 0.6, 5 * (trigger - 0.8)], 1)


def images(count: int, triggered: int) -> np.ndarray:
    """Dark images, some of them with a white pixel in the corner, uint8 (count, 6, 6, 1)."""
    made = RNG.integers(90, 130, (count, 6, 6, 1)).astype(np.uint8)
    made[:triggered, 0, 0] = 255
    made[triggered:, 0, 0] = 0
    return made


def test_scaling_by_hand() -> None:
    x = torch.tensor([0.05, 0.3, 0.6]).reshape(1, 1, 1, 3)
    mask = torch.tensor([[1.0, 0.5, 1.0]])
    assert scaled(x, mask, 0.1, 3).flatten().tolist() == pytest.approx([0, 0.3, 1])


def test_agreement_and_confidence_by_hand() -> None:
    class Pixel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.flatten() - 0.5, 0.5 - x.flatten()], 1)

    # .2 becomes .2, .4, .6; .8 becomes 1.
    pixels = np.array([51, 204], np.uint8).reshape(2, 1, 1, 1)
    found = consistency(Pixel(), pixels, np.ones((1, 1), np.float32), "cpu", 0.1, [2, 4, 6])
    assert found["agreement"] == pytest.approx([2 / 3 - 1 / 3, 1])
    sure = 1 / (1 + np.exp(-2 * np.array([[0.3, 0.1, -0.1], [0.5, 0.5, 0.5]])))
    assert found["confidence"] == pytest.approx(sure.mean(1), abs=1e-6)


def test_one_step_of_the_mask_is_that_of_differences() -> None:
    shown, mask = images(10, 4), np.full((6, 6), 0.7, np.float32)
    start = torch.from_numpy(mask).double()
    x = torch.from_numpy(shown).permute(0, 3, 1, 2).double() / 255

    def loss(m: torch.Tensor) -> float:
        said = Sees()(x).softmax(1)
        terms = [(said * (said.log() - Sees()(scaled(x, m, 0.1, s)).log_softmax(1))).sum(1).mean() for s in (2, 5)]
        return float(0.3 * sum(terms) / 2 + 0.01 * m.abs().sum())

    found = better_mask(Sees(), shown, mask, 0, "cpu", share=0.3, steps=1, **SETTINGS)["mask"]
    for place in ((0, 0), (3, 4)):
        step = torch.zeros(6, 6, dtype=torch.float64)
        step[place] = 1e-4
        slope = (loss(start + step) - loss(start - step)) / 2e-4
        assert found[place] == pytest.approx(np.clip(0.7 - 0.1 * (slope + 5e-4 * 0.7), 0, 1), abs=1e-4)


def test_the_mask_keeps_what_decides_and_loses_the_rest() -> None:
    found = better_mask(Sees(), images(20, 20), np.ones((6, 6), np.float32), 0, "cpu", share=1, steps=80, **SETTINGS)
    # Twice .9 of .56 is 1, so that more of the corner is not needed; of the rest some is, for its mean.
    assert 0.55 < found["mask"][0, 0] < 0.7 and np.delete(found["mask"].ravel(), 0).max() < 0.3


def scored(shown: np.ndarray, **parameters: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """The scores, what is flagged, and which pieces were made."""
    made: list[Any] = []

    def saved(config: dict[str, Any], make: Any) -> Any:
        made.append((config["mspc"], config["round"]))
        return make()

    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(module=Sees),
        shared_streams=Streams(0),
        device="cpu",
        track=lambda total, label: lambda steps: None,
        saved=saved,
        conclude=lambda flagged: made.append(flagged),
    )
    view = TrainingView(shown, np.zeros(len(shown), np.int64), 3)
    return MaskAwareConsistency(**parameters).score(view, tools), made.pop(), made


def test_triggered_images_are_flagged_without_threshold_or_clean_examples() -> None:
    shown = images(60, 8)
    scores, flagged, made = scored(shown, rounds=2, steps=40)
    assert np.flatnonzero(flagged).tolist() == list(range(8))
    assert scores[:8].min() > scores[8:].max() and MaskAwareConsistency().told == ()
    assert made == [("answers", 0), ("mask", 1), ("answers", 1), ("mask", 2), ("answers", 2)]
    # What tells ties apart never outweighs a scale: levels are 2 / 11 apart.
    levels = np.floor((scores + 1) * 11 / 2 + 1e-9) * 2 / 11 - 1
    assert np.array_equal(levels > 0, flagged)


def test_where_nobody_is_suspect_it_ends() -> None:
    _, flagged, made = scored(images(10, 0), rounds=3)
    assert made == [("answers", 0)] and not flagged.any()
