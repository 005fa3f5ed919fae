from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Record
from bdbench_inspection import trigger
from bdbench_inspection.neural_cleanse import anomaly
from bdbench_inspection.trigger import Penalty, reverse


def test_the_anomaly_index_by_hand() -> None:
    # Median 10, absolute deviations 8, 1, 0, 1, 2: their median is 1.
    index = anomaly(np.array([2.0, 9.0, 10.0, 11.0, 12.0]))
    assert index == pytest.approx(np.array([8, 1, 0, -1, -2]) / 1.4826)
    assert np.isfinite(anomaly(np.array([1.0, 5.0, 5.0, 5.0]))).all()


def test_the_penalty_starts_once_the_trigger_works_and_follows_it() -> None:
    penalty = Penalty()
    weights = []
    for works in [False] * 7 + [True] * 5 + [True] * 5 + [False] * 5 + [True, True, False, True, True]:
        penalty.adapt(works)
        weights.append(penalty.weight)
    assert weights[:11] == [0.0] * 11
    assert weights[11:16] == [1e-3] * 5 and weights[16:21] == [2e-3] * 5
    assert weights[21:] == pytest.approx([2e-3 / 2**1.5] * 6)
    assert penalty.grown and penalty.shrunk


class Corner(nn.Module):
    """Gives label 1 where the last pixel is bright, else 0 or 2 by the first pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, last = x[:, 0, 0, 0], x[:, 0, -1, -1]
        return torch.stack([4 * (0.5 - first), 40 * (last - 0.8), 4 * (first - 0.5)], 1)


def test_a_planted_trigger_is_found() -> None:
    images = np.random.default_rng(0).integers(0, 120, (40, 4, 4, 1)).astype(np.uint8)
    settings = {"rounds": 750, "lr": 0.1, "batch": 20, "success": 0.99}
    found = reverse(Corner(), images, [5, 6, 7], "cpu", 1, **settings)  # type: ignore[arg-type]
    mask, pattern = found["mask"], found["pattern"]
    assert mask.shape == (4, 4) and pattern.shape == (1, 4, 4) and found["success"] >= 0.99
    # One pixel does it; nothing else is worth its price.
    assert mask[-1, -1] > 0.7 and pattern[0, -1, -1] > 0.8
    assert mask.sum() - mask[-1, -1] < 0.2
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    m, p = torch.from_numpy(mask), torch.from_numpy(pattern)
    assert (Corner()((1 - m) * x + m * p).argmax(1) == 1).float().mean() == pytest.approx(float(found["success"]))
    again = reverse(Corner(), images, [5, 6, 7], "cpu", 1, **settings)  # type: ignore[arg-type]
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_round_has_no_more_images_than_the_authors() -> None:
    """So that many clean images leave no less of the search: 1,000 of them in batches of 20, and a try on all."""
    images = np.random.default_rng(0).integers(0, 120, (2500, 4, 4, 1)).astype(np.uint8)
    seen: list[int] = []
    model = Corner()
    model.register_forward_hook(lambda _, given, said: seen.append(len(given[0])))
    reverse(model, images, [5, 6, 7], "cpu", 1, rounds=2, lr=0.1, batch=20, success=0.99)
    assert seen == [*[20] * 50, 1024, 1024, 452] * 2


@pytest.mark.slow
def test_it_flags_the_target_of_a_backdoored_model_and_no_label_of_a_clean_one(
    on_digits: Callable[..., Record],
) -> None:
    verdict = on_digits("badnets:rate=.05", "neural-cleanse").verdict
    assert verdict is not None and verdict.flagged and verdict.targets == [0] and verdict.hit
    clean = on_digits("none", "neural-cleanse").verdict
    assert clean is not None and not clean.flagged and clean.targets == []
    assert clean.score < 2 < verdict.score


class Bright(nn.Module):
    """Gives label 1 the more, the brighter the whole image is: the mask grows from round to round."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        light = x.mean((1, 2, 3))
        return torch.stack([0 * light, 40 * (light - 0.9)], 1)


def test_the_smallest_mask_that_works_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 120, (40, 4, 4, 1)).astype(np.uint8)
    sizes: list[float] = []

    def tried(model: nn.Module, x: Any, mask: torch.Tensor, *rest: Any) -> float:
        sizes.append(float(((mask.detach().tanh() + 1) / 2).sum()))
        return 1.0

    monkeypatch.setattr(trigger, "_tried", tried)
    found = reverse(Bright(), images, [5, 6, 7], "cpu", 1, rounds=5, lr=0.1, batch=20, success=0.99)
    assert min(sizes) < sizes[-1] - 1e-3 and float(found["mask"].sum()) == pytest.approx(min(sizes), rel=1e-5)


def test_a_search_that_never_works_does_not_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    images, rounds = np.zeros((4, 4, 4, 1), np.uint8), list[int]()
    monkeypatch.setattr(trigger, "_tried", lambda *given: (rounds.append(1), 0.0)[1])
    reverse(Corner(), images, [5, 6, 7], "cpu", 1, rounds=40, lr=0.1, batch=4, success=0.99)
    assert len(rounds) == 40
