from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Batch, BdbenchError, Record, Reopened, TrainingView
from bdbench.testing import check_defense
from bdbench_baselines.nab import NonAdversarialBackdoor, Stamped, nearest_centre, stamped


def test_the_nearest_centre_is_scikit_learns() -> None:
    from sklearn.neighbors import NearestCentroid

    chance = np.random.default_rng(0)
    features, labels, trusted = chance.normal(size=(60, 5)), chance.integers(0, 4, 60) * 2, chance.random(60) < 0.8
    expected = NearestCentroid().fit(features[trusted], labels[trusted]).predict(features)
    assert nearest_centre(features, labels, trusted).tolist() == expected.tolist()


def test_the_stamp_is_the_mean_colour_in_the_corner() -> None:
    images = np.full((2, 8, 8, 3), 9, np.uint8)
    made = stamped(images, np.array([0.0, 0.5, 1.0], np.float32), 2)
    assert (made[:, :2, :2] == [0, 128, 255]).all() and (made[:, 2:] == 9).all() and (made[:, :, 2:] == 9).all()
    assert (images == 9).all()


def test_inputs_are_stamped_and_those_that_this_relabels_can_be_refused() -> None:
    def predict(images: np.ndarray) -> np.ndarray:
        """1 where the corner is black, otherwise what the last pixel says."""
        return np.where(images[:, 0, 0, 0] == 0, 1, images[:, -1, -1, 0]).astype(np.int64)

    victim: Any = SimpleNamespace(predict=predict, mean=np.zeros(1, np.float32))
    images = np.full((3, 4, 4, 1), 50, np.uint8)
    images[:, -1, -1, 0] = [0, 1, 2]
    assert Stamped(victim, 2, False).predict(images).tolist() == [1, 1, 1]
    assert Stamped(victim, 2, True).predict(images).tolist() == [-1, 1, -1]


def test_suspects_are_stamped_in_training_if_their_pseudo_label_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, pseudo = np.array([0, 0, 1, 1]), np.array([1, 0, 0, 0])
    view, given = TrainingView(np.zeros((4, 4, 4, 1), np.uint8), labels, 2), []
    losses = np.array([[9.0, 0.0], [8.0, 0.0], [0.0, 0.1], [0.1, 0.0]])
    model = SimpleNamespace(logits=lambda images: losses, mean=np.zeros(1, np.float32))

    def train(images: np.ndarray, labels: np.ndarray, name: str, **options: Any) -> Any:
        given.append((name, labels, options))
        return model

    from bdbench import Recipe, Streams

    tools: Any = SimpleNamespace(train=train, recipe=Recipe(10, 4, 0.1), streams=Streams(0), device="cpu")
    monkeypatch.setattr(NonAdversarialBackdoor, "_pseudo_labels", lambda *_: pseudo)
    NonAdversarialBackdoor(isolation=0.5).train(view, tools)
    assert [name for name, *_ in given] == ["isolate", "train"] and given[0][2]["recipe"].epochs == 2
    # Examples 0 and 1 are suspected; only of the first the pseudo-label is another one.
    assert given[1][1].tolist() == [1, 0, 1, 1]
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros(len(x), 2, requires_grad=True)

    x = torch.ones(3, 1, 4, 4)
    index = torch.tensor([2, 0, 1])
    given[1][2]["loss"](Batch(network, x, torch.tensor([1, 1, 0]), index, 0, lambda i: i))  # type: ignore[arg-type]
    assert seen[0].sum((1, 2, 3)).tolist() == [16, 12, 16] and (seen[0][1, 0, :2, :2] == 0).all() and (x == 1).all()


def test_with_clean_examples_it_keeps_the_contracts() -> None:
    check_defense(NonAdversarialBackdoor(oracle=True, filter=True, clean=8))
    assert NonAdversarialBackdoor(oracle=True).told == ("clean_set",) and NonAdversarialBackdoor().told == ()


@pytest.mark.slow
def test_it_takes_most_triggered_digits_back(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    record = on_digits("badnets:rate=.1", "nab:oracle=true")
    assert record.oracles == ["clean_set"] and record.after is not None and record.after.clean_accuracy > 0.9
    assert record.after.attack_success_rate is not None and record.after.attack_success_rate < 0.5
    run = again(record)
    with pytest.raises(BdbenchError, match="clean=1000 is not allowed"):
        NonAdversarialBackdoor(oracle=True, clean=1000).train(run.view, run.tools())
