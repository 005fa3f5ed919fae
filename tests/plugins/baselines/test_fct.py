from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from bdbench import Recipe, Record, Streams, TrainingView
from bdbench_baselines.fct import FeatureConsistency
from bdbench_baselines.sensitivity import consistency


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
    scores = FeatureConsistency(spread=20, poisoned=0.1).score(view, given)
    # 60 examples make 8 batches: 20 steps take 3 epochs.
    assert [(name, epochs) for name, epochs, *_ in given.trained] == [("early", 2), ("spread", 3)]
    assert given.trained[1][2] is not given.victim and given.trained[1][3] is not None
    assert np.flatnonzero(given.flagged).tolist() == list(range(6)) and scores[:6].min() > scores[6:].max()
    assert np.array_equal(scores, consistency(given.victim, images, Streams(0)))
    other = tools_of(corner)
    FeatureConsistency(start="victim", spread=0, poisoned=0).score(view, other)
    assert other.trained == [] and not other.flagged.any()
    FeatureConsistency(start="victim", spread=20).score(view, other)
    assert [entry[:3] for entry in other.trained] == [("spread", 3, other.victim)]


def test_chance_decides_between_equal_changes() -> None:
    view = TrainingView(np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int64), 2)
    given = tools_of(lambda images: np.zeros((len(images), 3)))
    FeatureConsistency().score(view, given)
    assert given.flagged.sum() == 2 and not given.flagged[:2].all()


def test_what_it_flags_of_digits_are_poisons(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "fct:spread=500")
    found, decision = record.detection, record.decision
    assert record.oracles == [] and record.cost.models_trained == 2
    assert found is not None and found.auroc is not None and found.auroc > 0.8
    assert decision is not None and decision.precision is not None and decision.precision > 0.8
