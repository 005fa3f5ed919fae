from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.manifold import trustworthiness
from torch import nn

from bdbench import BdbenchError, Record, Victim
from bdbench.progress import quiet
from bdbench_baselines.activations import least_likely
from bdbench_baselines.density import apart
from bdbench_baselines.flare import distances, embedded


@pytest.mark.parametrize("seed", range(2))
def test_a_planted_cluster_stands_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = embedded(np.concatenate([rng.normal(0, 1, (600, 6)), rng.normal(8, 1, (60, 6))]), 40, seed)
    found = apart(points, 10, 0.02, 3)
    assert found is not None
    assert (found[600:] == 1).all() and not (found[:600] == 1).any()
    scores = distances(points, points[found == 0])
    assert scores[600:].min() > scores[:600].max()


def test_three_generations_by_hand() -> None:
    # Points on lines, 1, 2 and 4 apart, with gaps of 50 and 20: the first split leaves 20 + 10 points, that the second.
    line = np.concatenate([np.arange(20.0), 39 + np.arange(10.0) * 1.0, 98 + 2 * np.arange(5.0)])
    points = np.stack([line, np.zeros_like(line)], 1)
    # The 30 last from 1 / 50 to 1 / 20.
    found = apart(points, 3, 0.029, 3)
    assert found is not None and found.tolist() == [0] * 30 + [1] * 5
    # Not for .031: the 20 do, from 1 / 20 to 1 / 2, where they are as dense as they get: a third neighbour is 2
    # away, of those at the ends 3, and of the last five 4.
    found = apart(points, 3, 0.031, 3)
    assert found is not None
    assert found.tolist() == [-1, *[0] * 18, -1, -1, *[1] * 8, -1, *[-1] * 5]
    assert apart(points, 3, 0.031, 1) is None


def test_one_cluster_is_left_alone() -> None:
    points = np.random.default_rng(0).uniform(size=(100, 2))
    assert apart(points, 60, 0.02, 3) is None
    assert apart(np.zeros((30, 2)), 20, 0.02, 3) is None
    assert apart(np.zeros((1, 2)), 10, 0.02, 3) is None


def test_an_embedding_keeps_neighbours_and_separates_clusters() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, (150, 6)), rng.normal(8, 1, (30, 6))])
    found = embedded(points, 15, 0)
    assert found.shape == (180, 2) and trustworthiness(points, found, n_neighbors=10) > 0.7
    assert cdist(found[:150], found[150:]).min() > cdist(found[150:], found[150:]).max()
    assert np.array_equal(found, embedded(points, 15, 0))


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.zeros((12, 1)), np.arange(6.0).reshape(3, 2)])
def test_few_or_equal_points_are_embedded(points: np.ndarray) -> None:
    found = embedded(points, 40, 0)
    assert found.shape == (len(points), 2) and np.isfinite(found).all()


class _Network(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


def _victim(layer: nn.Module) -> Victim:
    return Victim(_Network(layer), np.zeros(1, np.float32), np.ones(1, np.float32), "cpu")


def test_the_least_likely_activation_by_hand() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 3, 1)).astype(np.uint8)
    pixels = images.reshape(7, 9) / 255
    layer = nn.BatchNorm2d(1)
    with torch.no_grad():
        layer.running_mean.fill_(0.4)  # type: ignore[union-attr]
        layer.running_var.fill_(0.09)  # type: ignore[union-attr]
    expected = norm.logpdf(pixels, 0.4, np.sqrt(0.09 + 1e-5)).min(1)
    assert least_likely(_victim(layer), images, quiet)[:, 0] == pytest.approx(expected, rel=1e-4)
    # Without batch norms, by the moments of the set.
    convolution = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(convolution.weight, 3.0)
    expected = norm.logpdf(3 * pixels, 3 * pixels.mean(), 3 * pixels.std()).min(1)
    assert least_likely(_victim(convolution), images, quiet)[:, 0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(BdbenchError, match="batch norms or convolutions"):
        least_likely(_victim(nn.Identity()), images, quiet)


def test_distances_leave_the_point_itself_out() -> None:
    clean = np.stack([np.arange(12.0), np.zeros(12)], 1)
    found = distances(np.concatenate([clean, [[100.0, 0.0]]]), clean)
    assert found[0] == pytest.approx(np.mean(np.arange(1, 11)))
    assert found[12] == pytest.approx(np.mean(100 - np.arange(2, 12)))


def test_it_finds_the_patch_on_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "flare")
    assert record.oracles == [] and record.access == ["training_set"]
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.98
    decision = record.decision
    assert decision is not None and decision.tpr is not None and decision.tpr > 0.95
    assert decision.fpr is not None and decision.fpr < 0.05
