from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Recipe, Record, Streams, TrainingView
from bdbench_baselines.fct import FeatureConsistency, centre_similarity, transformed


def batch(features: list[list[float]], labels: list[int]) -> Any:
    network = SimpleNamespace(features=lambda x: x)
    return SimpleNamespace(
        network=network, x=torch.tensor(features, requires_grad=True), labels=torch.tensor(labels, dtype=torch.int64)
    )


def test_similarity_of_centres_by_hand() -> None:
    # The centres point to (1, 0), (0, 1) and (1, 1): cosines 0, sqrt(1/2), sqrt(1/2), each twice, over 9 pairs.
    given = batch([[1.0, -1], [3, 1], [0, 2], [5, 5]], [7, 7, 2, 4])
    loss = centre_similarity(given)
    assert loss.item() == pytest.approx(4 * np.sqrt(0.5) / 9)
    loss.backward()
    assert given.x.grad.abs().sum() > 0
    alone = centre_similarity(batch([[1.0, 2], [3, 4]], [0, 0]))
    alone.backward()
    assert alone.item() == 0


class Most:
    """In place of chance: the largest."""

    def uniform(self, low: float, high: float, size: Any) -> np.ndarray:
        return np.full(size, high)


def test_images_are_turned_and_then_moved() -> None:
    image = np.arange(1, 81, dtype=np.uint8).reshape(1, 8, 10, 1)
    # By 180 degrees, and .2 of 10 and of 8 pixels to the right and down.
    expected = np.zeros_like(image)
    expected[:, 2:, 2:] = image[:, ::-1, ::-1][:, :-2, :-2]
    assert np.array_equal(transformed(image, Most()), expected)  # type: ignore[arg-type]


def test_each_image_is_transformed_at_random() -> None:
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8), 5, axis=0)
    first = transformed(images, np.random.default_rng(0))
    assert len({image.tobytes() for image in first}) == 5
    assert np.array_equal(first, transformed(images, np.random.default_rng(0)))


def tools_of(features: Callable[[np.ndarray], np.ndarray]) -> Any:
    made = SimpleNamespace(
        recipe=Recipe(epochs=20, batch_size=8, lr=0.1, flip=True, crop_padding=4), streams=Streams(0), trained=[]
    )
    made.victim = SimpleNamespace(features=features)

    def train(images: np.ndarray, labels: np.ndarray, name: str, **options: Any) -> Any:
        made.trained.append((name, options["recipe"].epochs, options.get("start"), options.get("loss")))
        assert not options["recipe"].flip and options["recipe"].crop_padding == 0
        return SimpleNamespace(features=features)

    made.train = train
    made.conclude = lambda flagged: setattr(made, "flagged", flagged)
    return made


def test_what_changes_most_is_flagged() -> None:
    rng = np.random.default_rng(0)
    images = np.zeros((60, 8, 8, 1), np.uint8)
    images[:, 2:6, 2:6] = rng.integers(50, 120, (60, 4, 4, 1))
    images[:6, :2, :2] = 255
    view = TrainingView(images, rng.integers(0, 2, 60), 2)

    def corner(others: np.ndarray) -> np.ndarray:
        return np.stack([others[:, :2, :2].sum((1, 2, 3)), others[:, 3:5, 3:5].mean((1, 2, 3))], 1)

    given = tools_of(corner)
    scores = FeatureConsistency(poisoned=0.1).score(view, given)
    assert [(name, epochs) for name, epochs, *_ in given.trained] == [("early", 2), ("tune", 10)]
    assert given.trained[1][3] is centre_similarity
    assert np.flatnonzero(given.flagged).tolist() == list(range(6)) and scores[:6].min() > scores[6:].max()
    turned = transformed(images, Streams(0)("transformations"))
    assert scores == pytest.approx(((corner(images) - corner(turned).astype(float)) ** 2).mean(1))
    other = tools_of(corner)
    FeatureConsistency(start="victim", tuned=0, poisoned=0).score(view, other)
    assert other.trained == [] and not other.flagged.any()
    FeatureConsistency(start="victim").score(view, other)
    assert other.trained == [("tune", 10, other.victim, centre_similarity)]


def test_chance_decides_between_equal_changes() -> None:
    view = TrainingView(np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int64), 2)
    given = tools_of(lambda images: np.zeros((len(images), 3)))
    FeatureConsistency().score(view, given)
    assert given.flagged.sum() == 2 and not given.flagged[:2].all()


def test_what_it_flags_of_digits_are_poisons(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "fct")
    found, decision = record.detection, record.decision
    assert record.oracles == [] and record.cost.models_trained == 2
    assert found is not None and found.auroc is not None and found.auroc > 0.8
    assert decision is not None and decision.precision is not None and decision.precision > 0.8
