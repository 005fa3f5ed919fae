from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from bdbench import Recipe, Record, TrainingView, Victim
from bdbench_baselines import offset
from bdbench_baselines.asset import Asset, threshold
from bdbench_baselines.offset import InnerOffset, adjusted_outlyingness, inner_offset, maps, medcouple
from bdbench_models.architectures import PreActResNet18


def test_the_medcouple_by_hand() -> None:
    # Around the median 3: of 4 and 10 with 1 and 2: (1 - 2) / 3, 0, (7 - 2) / 9, (7 - 1) / 8; with 3 itself: 1 for
    # each above it, -1 for each below it, and 0 for itself.
    pairs = [-1 / 3, 0, 5 / 9, 6 / 8, 1, 1, -1, -1, 0]
    assert medcouple(np.array([4.0, 1.0, 10.0, 2.0, 3.0])) == pytest.approx(np.median(pairs))
    assert medcouple(np.array([1.0, 2.0, 10.0, 12.0])) == pytest.approx(
        np.median([0, -4 / 6, -5 / 6 + 1, 1 / 10]), abs=1
    )
    assert medcouple(np.ones(5)) == 0


def test_the_medcouple_is_antisymmetric_and_knows_no_scale() -> None:
    values = np.random.default_rng(0).exponential(size=101)
    assert medcouple(values) > 0.2
    assert medcouple(-values) == pytest.approx(-medcouple(values))
    assert medcouple(3 * values + 7) == pytest.approx(medcouple(values))
    assert medcouple(np.arange(-50.0, 51)) == pytest.approx(0)


def test_outlyingness_by_hand() -> None:
    # Symmetric: quartiles 2 and 6 around 4; whiskers at -4 and 12.
    values = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert adjusted_outlyingness(values) == pytest.approx(np.abs(values - 4) / 8)
    assert adjusted_outlyingness(np.array([1.0, 1, 1, 1, 9])).tolist() == [0, 0, 0, 0, np.inf]


def test_where_the_law_of_the_lower_half_ends() -> None:
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(2, 0.1, 900), rng.normal(9, 1, 100)])
    lower = np.sort(losses)[:500]
    found = threshold(losses, 1e-6)
    assert norm.pdf(found, lower.mean(), np.sqrt(lower.var() + 1e-6)) == pytest.approx(1e-6, rel=1e-6)
    assert found > lower.mean() and (losses > found).sum() == pytest.approx(100, abs=5)
    # So flat that it is never as dense.
    assert threshold(losses, 100.0) == pytest.approx(lower.mean())


def test_the_inner_offset_tells_what_is_only_in_the_batch() -> None:
    torch.manual_seed(0)
    shared = torch.randn(160, 32)
    strange = torch.randn(16, 32) + 3
    answers = inner_offset(torch.cat([shared[:80], strange]), shared[80:], InnerOffset(100, 1e-5, 2.0))
    assert roc_auc_score(np.arange(96) >= 80, answers) > 0.97


class _Network(nn.Module):
    def __init__(self, convolutions: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 1, 1, bias=False) for _ in range(convolutions)]
        for layer in layers:
            nn.init.constant_(layer.weight, 2.0)
        self.early, self.late = nn.Sequential(*layers), nn.Linear(16, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.early(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.features(x))


@pytest.mark.parametrize(("convolutions", "expected"), [(2, [[4.0, 4.0, 4.0, 4.0]]), (1, [[2.0] * 16])])
def test_the_last_feature_maps_are_averaged_and_features_stand_in(convolutions: int, expected: list[float]) -> None:
    victim = Victim(_Network(convolutions), np.zeros(1, np.float32), np.ones(1, np.float32), "cpu")
    assert maps(victim, np.full((1, 4, 4, 1), 255, np.uint8)).tolist() == expected


def test_of_a_residual_network_they_are_what_leaves_its_last_stage() -> None:
    """Not what a block's last norm gives, to which what was skipped is then added."""
    network = PreActResNet18().build((32, 32, 3), 5).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    victim = Victim(network, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), "cpu")
    left: list[torch.Tensor] = []
    network.layer4.register_forward_hook(lambda module, given, made: left.append(made))
    found = maps(victim, images)
    assert found.shape == (3, 2048)
    assert torch.equal(found, adaptive_avg_pool2d(left[0].relu(), 2).flatten(1))


def test_poisons_come_first_where_they_are_easy_to_find(on_digits: Callable[..., Record]) -> None:
    # In fewer steps than by default, and on a third of the images; the test below takes it as it is.
    record = on_digits("badnets:rate=.1", "asset:steps=50,inner_steps=30", subset=500)
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.98


@pytest.mark.slow  # The small networks of its inner offset take a minute.
def test_it_finds_the_patch_on_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "asset")
    assert record.oracles == ["clean_set"]
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.98
    decision = record.decision
    assert decision is not None and decision.tpr is not None and decision.tpr > 0.9
    assert decision.fpr is not None and decision.fpr < 0.1


def test_the_offset_is_the_variance_of_an_images_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over its classes, and not over the images: two that are told nothing of have none between them."""
    monkeypatch.setattr(offset, "maps", lambda victim, images: torch.zeros(len(images), 1))
    monkeypatch.setattr(offset, "inner_offset", lambda features, clean, inner: np.zeros(len(features)))
    images = np.zeros((2, 4, 4, 1), np.uint8)
    logits = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
    batch: Any = SimpleNamespace(
        x=torch.zeros(2, 1, 4, 4), labels=torch.tensor([0, 1]), index=torch.tensor([0, 1]),
        network=lambda x: logits, prepare=lambda x: x,
    )  # fmt: skip
    loss = offset.Offset(None, images, images, InnerOffset(1, 0.1, 2.0))  # type: ignore[arg-type]
    assert loss(batch) == 0
    logits = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    assert loss(batch) == pytest.approx(8)


def test_losses_above_the_lower_halfs_law_are_flagged() -> None:
    losses = np.array([0.0] * 6 + [0.1] * 3 + [5.0])
    # Of two classes, with the margin that gives the loss.
    margins = np.where(losses > 0, -np.log(np.expm1(np.maximum(losses, 1e-9))), 50.0)
    model = SimpleNamespace(logits=lambda images: np.stack([margins, np.zeros(10)], 1))
    concluded: dict[str, np.ndarray] = {}
    images = np.zeros((10, 4, 4, 1), np.uint8)
    tools: Any = SimpleNamespace(
        clean_examples=lambda count: SimpleNamespace(images=images), recipe=Recipe(epochs=1, batch_size=4, lr=0.1),
        victim=None, train=lambda *given, **options: model, conclude=lambda **said: concluded.update(said),
    )  # fmt: skip
    view = TrainingView(images, np.zeros(10, np.int64), 2)
    assert Asset().score(view, tools) == pytest.approx(losses, abs=1e-6)
    assert concluded["flagged"].tolist() == [False] * 6 + [True] * 4


def test_whiskers_are_longer_on_the_skewed_side() -> None:
    values = np.array([0.0, 1, 2, 3, 4, 6, 9, 14, 30])
    skew = medcouple(values)
    assert skew > 0.2
    below, above = 4 - 2 + 1.5 * np.exp(-4 * skew) * 7, 9 - 4 + 1.5 * np.exp(3 * skew) * 7
    expected = np.abs(values - 4) / np.where(values > 4, above, below)
    assert adjusted_outlyingness(values) == pytest.approx(expected)
    # Turned round, the sides are exchanged.
    assert adjusted_outlyingness(-values) == pytest.approx(expected)
