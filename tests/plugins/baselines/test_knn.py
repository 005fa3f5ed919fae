from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from bdbench import Record, TrainingView
from bdbench_baselines.knn import DeepKNN, neighbour_labels

RNG = np.random.default_rng(0)


def scored(features: np.ndarray, labels: np.ndarray, **parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """The scores, and what is flagged."""
    concluded: dict[str, np.ndarray] = {}
    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(features=lambda images: features),
        track=lambda total, label: lambda steps: None,
        conclude=lambda flagged: concluded.update(flagged=flagged),
    )
    view = TrainingView(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, int(labels.max()) + 1)
    return DeepKNN(**parameters).score(view, tools), concluded["flagged"]


def test_by_hand() -> None:
    # On a line: 0 1 2 | 10 11 12 are the two labels, and 3 bears that of the far ones; k = 3 for 0..2, and 4 else.
    features = np.array([[0.0], [1], [2], [10], [11], [12], [3]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    scores, flagged = scored(features, labels)
    assert scores == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 4, 3 / 4])
    assert flagged.tolist() == [False] * 6 + [True]


@pytest.mark.parametrize("share", [0.1, 1.0, 3.0])
def test_counts_equal_scikit_learns(share: float) -> None:
    labels = RNG.integers(0, 3, 200)
    features = RNG.normal(size=(200, 8)) + 4 * labels[:, None] + 100
    sizes = np.bincount(labels)
    k = np.clip(np.rint(share * sizes[labels]), 1, 199).astype(int)
    search = NearestNeighbors(n_neighbors=199, algorithm="brute").fit(features)
    nearest = search.kneighbors(return_distance=False)
    expected = [np.bincount(labels[row[:kth]], minlength=3) for row, kth in zip(nearest, k, strict=True)]
    assert np.array_equal(neighbour_labels(features, labels, k), expected)


def test_the_decision_is_the_authors_but_for_the_example_itself() -> None:
    labels = np.repeat([0, 1, 2], 60)
    features = RNG.normal(size=(180, 6)) + 3 * np.eye(6)[labels]
    labels[:12] = 1
    # Theirs counts the example itself as one more neighbour.
    theirs = KNeighborsClassifier(61, algorithm="brute").fit(features, labels).predict(features) != labels
    # 60 / 48 of the 48, 60 / 72 of the 72, 60 / 60 of the 60.
    flagged = np.zeros(180, bool)
    for label, size in enumerate(np.bincount(labels)):
        members = labels == label
        flagged[members] = scored(features, labels, k=60 / size)[1][members]
    assert (flagged == theirs).mean() > 0.98
    assert flagged[:12].sum() >= 10 and flagged[12:].sum() < 10


def test_order_and_equal_examples_make_no_difference() -> None:
    features = np.repeat(RNG.normal(size=(30, 5)), 4, axis=0).astype(np.float32) * 7 + 3
    labels = RNG.integers(0, 4, 120)
    order = RNG.permutation(120)
    scores, flagged = scored(features, labels)
    again, also = scored(features[order], labels[order])
    assert np.array_equal(again, scores[order]) and np.array_equal(also, flagged[order])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features_and_rare_labels(value: float) -> None:
    labels = np.array([0] * 30 + [1] * 28 + [3])
    scores, flagged = scored(np.full((59, 5), value, np.float32), labels)
    # All others are as far.
    assert scores == pytest.approx([1 - 29 / 58] * 30 + [1 - 27 / 58] * 28 + [1])
    assert flagged.tolist() == [False] * 30 + [True] * 28 + [True]


def test_a_single_example() -> None:
    scores, _ = scored(np.ones((1, 3)), np.array([0]))
    assert scores == pytest.approx([1])


def test_balanced_votes_by_hand() -> None:
    # The nearest 2 of 0 are of a label of 4, the one next is of its own, of 2.
    features = np.array([[0.0], [2.5], [1], [2], [50], [51]])
    labels = np.array([0, 0, 1, 1, 1, 1])
    assert scored(features, labels, k=1.5)[0][0] == pytest.approx(2 / 3)
    scores, flagged = scored(features, labels, k=1.5, balance=True)
    assert scores[0] == pytest.approx((2 / 4) / (2 / 4 + 1 / 2)) and not flagged[0]


def test_mislabelled_digits_are_found(on_digits: Callable[..., Record]) -> None:
    # Poisons that keep another class's features, and bear any label.
    record = on_digits("untargeted", "knn")
    assert record.oracles == [] and record.detection is not None and record.decision is not None
    assert record.detection.auroc is not None and record.detection.auroc > 0.95
    assert record.cost.models_trained == 0
