from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bdbench import BdbenchError, Record, Reopened, Streams, TrainingView
from bdbench_baselines.confident_learning import ConfidentLearning, spread

RNG = np.random.default_rng(0)


def scored(logits: np.ndarray, labels: np.ndarray, **parameters: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """The scores, what is flagged, and the examples that each model was trained on, of models that say ``logits``.

    An image holds its number in its two pixels.
    """
    concluded: dict[str, np.ndarray] = {}
    trained: list[np.ndarray] = []

    def numbers(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 2).astype(int) @ [1, 256]

    def train(images: np.ndarray, given: np.ndarray, name: str) -> Any:
        seen = numbers(images)
        assert np.array_equal(given, labels[seen])
        trained.append(seen)

        def answer(others: np.ndarray) -> np.ndarray:
            assert not np.isin(numbers(others), seen).any()
            return logits[numbers(others)]

        return SimpleNamespace(logits=answer)

    tools: Any = SimpleNamespace(
        train=train, streams=Streams(0), conclude=lambda flagged: concluded.update(flagged=flagged)
    )
    each = np.arange(len(labels))
    images = np.stack([each % 256, each // 256], 1).astype(np.uint8).reshape(-1, 1, 2, 1)
    scores = ConfidentLearning(**parameters).score(TrainingView(images, labels, logits.shape[1]), tools)
    return scores, concluded["flagged"], trained


def confident(labels: np.ndarray, classes: int) -> np.ndarray:
    """Log-probabilities of a model that is about as sure, .5 to .9, of the label of each example."""
    share = RNG.uniform(0.5, 0.9, len(labels))
    probabilities = np.repeat(((1 - share) / (classes - 1))[:, None], classes, 1)
    probabilities[np.arange(len(labels)), labels] = share
    return np.log(probabilities)


def test_parts_are_of_equal_sizes_and_hold_each_label() -> None:
    labels = np.repeat([0, 1, 3, 4], [50, 11, 1, 3])
    part = spread(labels, 5, np.random.default_rng(0))
    assert np.bincount(part).tolist() == [13] * 5
    for label in (0, 1, 3, 4):
        counts = np.bincount(part[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(part, spread(labels, 5, np.random.default_rng(1)))
    assert sorted(spread(np.array([0, 1]), 5, np.random.default_rng(0))) == [0, 1]


def test_without_cleanlab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(BdbenchError, match=r"needs cleanlab: expected pip install 'bdbench\[cleanlab\]'"):
        scored(np.zeros((4, 2)), np.arange(4) % 2)


def test_every_example_is_judged_by_a_model_that_has_not_seen_it() -> None:
    pytest.importorskip("cleanlab")
    labels = np.arange(23) % 2
    scores, _, trained = scored(confident(labels, 2), labels, folds=4)
    assert [len(seen) for seen in trained] == [17, 17, 17, 18]
    assert len(scores) == 23 and scores.dtype == np.float64


def counted(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the confident joint holds off its diagonal: of the classes in which an example is at least as sure as those
    of that label are on average, the one it is surest of is not its own (eq. 1 and 2 of the paper)."""
    probabilities = np.exp(logits)
    thresholds = np.array([probabilities[labels == k, k].mean() for k in range(logits.shape[1])])
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    return (confident.max(1) >= 0) & (confident.argmax(1) != labels)


def test_wrong_labels_are_found_and_counted_as_in_the_paper() -> None:
    pytest.importorskip("cleanlab")
    truth = RNG.integers(0, 4, 600)
    labels, logits = truth.copy(), confident(truth, 4)
    wrong = RNG.choice(np.flatnonzero(truth != 2), 40, replace=False)
    labels[wrong] = 2
    scores, flagged, _ = scored(logits, labels, rule="confident_learning")
    assert scores == pytest.approx(-logits[np.arange(600), labels])
    assert np.array_equal(flagged, counted(logits, labels)) and flagged.sum() >= 10
    # As many are pruned as are counted, which are those that the model is surer of than on average: about half.
    for rule, least in (("prune_by_noise_rate", 0.4), ("prune_by_class", 0.4), ("predicted_neq_given", 1)):
        _, flagged, _ = scored(logits, labels, rule=rule)
        assert flagged[wrong].mean() >= least and not np.delete(flagged, wrong).any(), rule


def test_right_labels_are_left_alone() -> None:
    pytest.importorskip("cleanlab")
    labels = RNG.integers(0, 4, 600)
    assert not scored(confident(labels, 4), labels)[1].any()


@pytest.mark.parametrize("rule", ["prune_by_noise_rate", "prune_by_class", "both", "confident_learning"])
def test_rare_labels_and_sure_models(rule: str) -> None:
    pytest.importorskip("cleanlab")
    labels = np.repeat([0, 1, 3], [30, 30, 1])
    for logits in (np.zeros((61, 5)), 200 * np.eye(5)[np.zeros(61, int)], confident(labels, 5)):
        scores, flagged, _ = scored(logits, labels, rule=rule)
        assert np.isfinite(scores).all() and flagged.dtype == bool and flagged.shape == (61,)
    one = np.zeros(20, np.int64)
    assert not scored(confident(one, 3), one, rule=rule)[1].any()


def test_flipped_labels_of_digits_are_found(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    pytest.importorskip("cleanlab")
    run = again(on_digits("none", "random"))
    labels = run.view.labels.copy()
    wrong = RNG.choice(len(labels), len(labels) // 20, replace=False)
    labels[wrong] = (labels[wrong] + RNG.integers(1, 10, len(wrong))) % 10
    tools = run.tools()
    scores = ConfidentLearning(folds=2).score(TrainingView(run.view.images, labels, 10), tools)
    assert tools.flagged is not None
    assert roc_auc_score(np.isin(np.arange(len(labels)), wrong), scores) > 0.98
    assert tools.flagged[wrong].mean() > 0.8 and np.delete(tools.flagged, wrong).mean() < 0.02
