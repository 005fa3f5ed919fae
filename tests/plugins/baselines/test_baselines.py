from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA

from bdbench import Detector, Record, Streams, TrainingView
from bdbench_baselines.activation_clustering import ActivationClustering, reduced, two_clusters
from bdbench_baselines.low_loss import LowLoss
from bdbench_baselines.perfect import PerfectFilter
from bdbench_baselines.random import Random
from bdbench_baselines.spectral import SpectralSignatures, spectral_scores

RNG = np.random.default_rng(0)


def tools(features: np.ndarray | None = None, logits: np.ndarray | None = None, **told: Any) -> Any:
    victim = SimpleNamespace(features=lambda images: features, logits=lambda images: logits)
    made = SimpleNamespace(victim=victim, streams=Streams(0), track=lambda total, label: lambda steps: None)
    made.conclude = lambda flagged: setattr(made, "flagged", flagged)
    made.oracle = told.__getitem__
    return made


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
    scores = SpectralSignatures(across="raw").score(view(labels), tools(features))
    assert np.allclose(scores[:100], spectral_scores(features[:100]))
    assert set(np.argsort(-scores)[:8]) <= set(range(10))
    uncentred = SpectralSignatures(across="raw", centered=False).score(view(labels), tools(features))
    assert not np.array_equal(np.argsort(-scores)[:20], np.argsort(-uncentred)[:20])


def halves(features: np.ndarray, reduction: Any) -> np.ndarray:
    return two_clusters(reduced(features, 10, reduction, 3), len(features), 3)


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_clusters_equal_scikit_learns_on_the_whole_label(reduction: Any) -> None:
    features = planted(20, 80)
    reducer = (
        FastICA(10, whiten="unit-variance", random_state=3, max_iter=1000, tol=5e-3)
        if reduction == "ica"
        else PCA(10, svd_solver="full")
    )
    expected = KMeans(2, n_init=10, random_state=3).fit_predict(reducer.fit_transform(features))
    assert np.array_equal(halves(features, reduction), expected != np.argmax(np.bincount(expected)))


def test_the_smaller_cluster_is_the_more_suspicious() -> None:
    labels = np.repeat([0, 1], 100)
    second = RNG.normal(size=(100, 12))
    second[:45] += 20 * np.eye(12)[3]
    first = planted(10, 90)
    first[:10] += 20 * np.eye(12)[0]
    given = tools(np.concatenate([first, second]))
    defense = ActivationClustering(reduction="pca", rule="relative-size")
    scores = defense.score(view(labels), given)
    assert scores[:10] == pytest.approx(0.9) and scores[100:145] == pytest.approx(0.55)
    assert not scores[10:100].any() and not scores[145:].any()
    # 10 % is below .35 of the label, 45 % is not.
    assert np.flatnonzero(given.flagged).tolist() == list(range(10))


def test_the_silhouette_rule_flags_the_smaller_cluster_of_labels_that_fall_in_two() -> None:
    from sklearn.metrics import silhouette_score

    labels = np.repeat([0, 1], 100)
    first = planted(40, 60)
    first[:40] += 60 * np.eye(12)[0]
    given = tools(np.concatenate([first, RNG.normal(size=(100, 12))]))
    defense = ActivationClustering(reduction="pca", rule="silhouette", silhouette=0.5)
    scores = defense.score(view(labels), given)
    points = PCA(10, svd_solver="full").fit_transform(first.astype(np.float64))
    expected = silhouette_score(points, np.arange(100) < 40)
    assert scores[:40] == pytest.approx(expected) and not scores[40:100].any()
    assert 0 < scores[100:].max() < 0.5
    assert np.flatnonzero(given.flagged).tolist() == list(range(40))


def test_the_exclusionary_rule_flags_what_a_model_without_it_gives_to_another_label() -> None:
    labels = np.repeat([0, 1, 2], 50)
    features = np.concatenate([planted(10, 40), planted(12, 38), planted(8, 42)])
    for start, count in ((0, 10), (50, 12), (100, 8)):
        features[start : start + count] += 60 * np.eye(12)[0]
    # Of the first label's cluster 7 become 2, 1 becomes 1, and 2 stay; of the second's 5 become 0; the third's stay.
    predicted = labels.copy()
    predicted[:8] = [2] * 7 + [1]
    predicted[50:55] = 0
    given = tools(features)
    trained: list[np.ndarray] = []

    def train(images: np.ndarray, own: np.ndarray, name: str) -> Any:
        trained.append(own)
        return SimpleNamespace(predict=lambda images: predicted)

    given.train = train
    scores = ActivationClustering(reduction="pca", rule="exclusionary").score(view(labels), given)
    assert np.bincount(trained[0]).tolist() == [40, 38, 42]
    assert scores[:10] == pytest.approx(7 / 9) and scores[50:62] == pytest.approx(5 / 12)
    assert not scores[10:50].any() and not scores[62:].any()
    assert np.flatnonzero(given.flagged).tolist() == list(range(10))


def test_spectral_rankings_across_labels_by_hand() -> None:
    # Squared projections 4, 0, 4 and 1, 0, 1, whose means are 8/3 and 2/3.
    features = np.array([[1.0, 3.0], [3.0, 3.0], [5.0, 3.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    found = {
        across: SpectralSignatures(across=across).score(view(np.repeat([0, 1], 3)), tools(features))  # type: ignore[arg-type]
        for across in ("raw", "scaled", "rank")
    }
    assert found["raw"] == pytest.approx([4, 0, 4, 1, 0, 1])
    assert found["scaled"] == pytest.approx([1.5, 0, 1.5, 1.5, 0, 1.5])
    assert found["rank"] == pytest.approx([5 / 6, 1 / 3, 5 / 6] * 2)


def test_spectral_told_the_rate_flags_as_many_of_every_label() -> None:
    labels = np.repeat([0, 1, 2], [100, 100, 8])
    features = np.concatenate([planted(10, 90), planted(0, 100), planted(0, 8)])
    given = tools(features, poison_rate=10 / 208)
    scores = SpectralSignatures(oracle=True).score(view(labels), given)
    assert np.bincount(labels[given.flagged]).tolist() == [15, 15, 8]
    assert given.flagged[:10].all()
    assert scores[:100][given.flagged[:100]].min() > scores[:100][~given.flagged[:100]].max()


def test_the_perfect_filter_ends_a_backdoor(on_digits: Callable[..., Record]) -> None:
    poisons = RNG.random(20) < 0.3
    given = tools(poisons=poisons)
    assert PerfectFilter().score(view(np.arange(20) % 2), given).tolist() == poisons.tolist()
    assert np.array_equal(given.flagged, poisons)
    record = on_digits("badnets:rate=.1", "perfect-filter", budget=0.1)
    assert record.oracles == ["poisons"]
    assert record.before.attack_success_rate is not None and record.before.attack_success_rate > 0.95
    assert record.detection is not None and record.detection.auroc == 1
    decision = record.decision
    assert decision is not None and (decision.tpr, decision.fpr, decision.precision) == (1, 0, 1)
    assert decision.after is not None and decision.after.attack_success_rate is not None
    assert decision.after.attack_success_rate < 0.02 and decision.after.clean_accuracy > 0.95


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_dead_units_make_no_difference(reduction: Any) -> None:
    features = planted(20, 80)
    dead = np.concatenate([np.zeros((100, 1)), features, np.full((100, 2), 3.0)], 1)
    assert np.array_equal(halves(dead, reduction), halves(features, reduction))


@pytest.mark.parametrize("features", [np.ones((5, 4)), np.zeros((2, 4)), np.outer(np.arange(5), np.ones(4))])
def test_a_label_that_cannot_be_split_is_one_cluster(features: np.ndarray) -> None:
    assert halves(features, "ica").tolist() == [0] * len(features)


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
