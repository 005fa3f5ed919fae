from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA

from bdbench import Detector, Streams, TrainingView
from bdbench_baselines.activation_clustering import ActivationClustering, two_clusters
from bdbench_baselines.low_loss import LowLoss
from bdbench_baselines.random import Random
from bdbench_baselines.spectral import SpectralSignatures, spectral_scores

RNG = np.random.default_rng(0)


def tools(features: np.ndarray | None = None, logits: np.ndarray | None = None) -> Any:
    victim = SimpleNamespace(features=lambda images: features, logits=lambda images: logits)
    return SimpleNamespace(victim=victim, streams=Streams(0), track=lambda total, label: lambda steps: None)


def view(labels: np.ndarray) -> TrainingView:
    return TrainingView(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, int(labels.max()) + 1)


def planted(poisons: int = 10, clean: int = 90, d: int = 12) -> np.ndarray:
    features = RNG.normal(size=(poisons + clean, d)) + 5
    features[:poisons] += 8 * np.eye(d)[0]
    return features


def test_spectral_scores_by_hand() -> None:
    # Centred: (-2, 0), (0, 0), (2, 0); the top direction is the first axis.
    features = np.array([[1.0, 3.0], [3.0, 3.0], [5.0, 3.0]])
    assert spectral_scores(features) == pytest.approx([4, 0, 4])
    assert spectral_scores(features, centered=False) == pytest.approx([1, 9, 25])


def test_spectral_scores_equal_the_top_eigenvector_of_the_covariance() -> None:
    features = planted()
    values, vectors = np.linalg.eigh(np.cov(features.T))
    assert values[-1] > values[-2]
    expected = ((features - features.mean(0)) @ vectors[:, -1]) ** 2
    assert np.allclose(spectral_scores(features), expected)


def test_spectral_scores_equal_scikit_learns_first_component() -> None:
    features = planted()
    assert np.allclose(spectral_scores(features), PCA(1, svd_solver="full").fit_transform(features)[:, 0] ** 2)


def test_spectral_works_label_by_label_and_centring_matters() -> None:
    labels = np.repeat([0, 1], 100)
    features = np.concatenate([planted(), RNG.normal(size=(100, 12)) + 5])
    scores = SpectralSignatures().score(view(labels), tools(features))
    assert np.allclose(scores[:100], spectral_scores(features[:100]))
    assert set(np.argsort(-scores)[:8]) <= set(range(10))
    uncentred = SpectralSignatures(centered=False).score(view(labels), tools(features))
    assert not np.array_equal(np.argsort(-scores)[:20], np.argsort(-uncentred)[:20])


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_clusters_equal_scikit_learns_on_the_whole_label(reduction: Any) -> None:
    features = planted(20, 80)
    reducer = (
        FastICA(10, whiten="unit-variance", random_state=3, max_iter=1000, tol=5e-3)
        if reduction == "ica"
        else PCA(10, svd_solver="full")
    )
    expected = KMeans(2, n_init=10, random_state=3).fit_predict(reducer.fit_transform(features))
    assert np.array_equal(two_clusters(features, 10, reduction, 3), expected)


def test_the_smaller_cluster_is_the_more_suspicious() -> None:
    labels = np.repeat([0, 1], 100)
    second = RNG.normal(size=(100, 12))
    second[:45] += 20 * np.eye(12)[3]
    first = planted(10, 90)
    first[:10] += 20 * np.eye(12)[0]
    defense = ActivationClustering(reduction="pca")
    scores = defense.score(view(labels), tools(np.concatenate([first, second])))
    assert scores[:10] == pytest.approx(0.9)
    assert scores[10:100] == pytest.approx(0.1)
    assert scores[100:145] == pytest.approx(0.55)


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_dead_units_make_no_difference(reduction: Any) -> None:
    features = planted(20, 80)
    dead = np.concatenate([np.zeros((100, 1)), features, np.full((100, 2), 3.0)], 1)
    assert np.array_equal(two_clusters(dead, 10, reduction, 3), two_clusters(features, 10, reduction, 3))


@pytest.mark.parametrize("features", [np.ones((5, 4)), np.zeros((2, 4)), np.outer(np.arange(5), np.ones(4))])
def test_a_label_that_cannot_be_split_is_one_cluster(features: np.ndarray) -> None:
    assert two_clusters(features, 10, "ica", 0).tolist() == [0] * len(features)


def test_low_loss_is_minus_cross_entropy_and_keeps_its_resolution() -> None:
    logits = RNG.normal(size=(50, 4)) * 3
    labels = RNG.integers(0, 4, 50)
    scores = LowLoss().score(view(labels), tools(logits=logits))
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    ).numpy()
    assert np.allclose(scores, -expected)
    sure = LowLoss().score(view(np.array([0, 0])), tools(logits=np.array([[60.0, 0.0], [70.0, 0.0]])))
    assert sure[0] < sure[1] < 0


@pytest.mark.parametrize("defense", [Random(), LowLoss(), SpectralSignatures(), ActivationClustering()])
def test_scores_are_finite_and_float64(defense: Detector) -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 1])
    features = RNG.normal(size=(81, 6)).astype(np.float32)
    scores = defense.score(view(labels), tools(features, features[:, :3]))
    assert scores.shape == (81,) and scores.dtype == np.float64 and np.isfinite(scores).all()
