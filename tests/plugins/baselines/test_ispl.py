from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import Recipe, Record, Streams, TrainingView
from bdbench_baselines.ispl import IncompatibilityClustering
from bdbench_baselines.learners import expand, lowest, pace, vote

RNG = np.random.default_rng(0)


class Answers:
    """A model that knows the label of images like those it was trained on, by their first pixel, and no other."""

    def __init__(self, known: dict[int, int], classes: int) -> None:
        self.known, self.classes = known, classes

    def logits(self, images: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(images), self.classes))
        for row, pixel in zip(logits, images[:, 0, 0, 0], strict=True):
            # Unknown ones are the first class, a little.
            row[self.known.get(int(pixel), 0)] += 5 if int(pixel) in self.known else 0.5
        return logits

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.logits(images).argmax(1)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": np.zeros(1)}


def tools(classes: int) -> Any:
    """Kinds of images, by their first pixel, are learnt where more than a tenth of what is trained on is of them."""
    trained: list[tuple[str, int, int]] = []

    def train(images: np.ndarray, labels: np.ndarray, name: str, *, recipe: Recipe, **options: Any) -> Answers:
        trained.append((name, len(labels), recipe.epochs))
        pixels, counts = np.unique(images[:, 0, 0, 0], return_counts=True)
        known = {int(p): int(labels[images[:, 0, 0, 0] == p][0]) for p in pixels[counts > len(labels) / 10]}
        return Answers(known, classes)

    made = SimpleNamespace(
        trained=trained,
        train=train,
        recipe=Recipe(epochs=40, batch_size=16, lr=0.1),
        saved=lambda config, make: make(),
        shared_streams=Streams(0),
        track=lambda total, label: lambda steps: None,
        restore=lambda said: Answers({}, classes),
    )
    made.conclude = lambda flagged: setattr(made, "flagged", flagged)
    return made


def kinds(*sizes: tuple[int, int, int]) -> TrainingView:
    """So many images of a pixel and a label."""
    pixels, labels, counts = np.array(sizes).T
    images = np.repeat(pixels, counts).astype(np.uint8).reshape(-1, 1, 1, 1)
    return TrainingView(images, np.repeat(labels, counts), 4)


def test_the_lowest_losses_and_some_of_each_label() -> None:
    losses = np.r_[np.arange(80), 100 + np.arange(80), [0.0]]
    labels, active = np.r_[np.zeros(80, int), np.ones(80, int), 1], np.ones(161, bool)
    active[-1] = False
    kept = lowest(losses, labels, active, 0.25)
    # A quarter overall, and 1/32 of each label, the ends included as in numpy's quantiles.
    assert np.flatnonzero(kept).tolist() == [*range(40), 80, 81, 82]


def test_votes_by_hand() -> None:
    predicted = np.array([[0, 1, 2, 0, 3], [0, 1, 2, 1, 2], [1, 1, 0, 2, 1]])
    labels = np.array([0, 2, 2, 0, 3])
    # Right, outvoted, right, and two on which all differ.
    assert vote(predicted, labels, RNG).tolist() == [True, False, True, False, False]
    tied = np.repeat([[0], [0], [1], [1]], 400, 1)
    assert 120 < vote(tied, np.zeros(400, int), RNG).sum() < 280


def test_a_learner_expands_to_what_it_predicts() -> None:
    view, given = kinds((10, 0, 100), (20, 1, 100), (30, 2, 100), (40, 3, 8)), tools(4)
    made = expand(view, np.ones(308, bool), 0.12, 4, "one", given)
    # Eight epochs of half, four each of a quarter of 36 %, 24 %, 12 %: and all of a recipe's on the core.
    assert [epochs for _, _, epochs in given.trained] == [8, 4, 4, 4, 4, 40]
    assert 100 < given.trained[0][1] < 210 and given.trained[-1][1] == made["core"].sum()
    assert (made["predicted"] == view.labels)[:300].mean() > 0.3


def test_the_rest_is_one_subset() -> None:
    view, given = kinds((10, 0, 10), (20, 1, 10)), tools(4)
    active = np.arange(20) < 5
    made = expand(view, active, 1.0, 4, "rest", given)
    assert np.array_equal(made["core"], active) and [count for _, count, _ in given.trained] == [5]


def test_rounds_drop_what_is_not_learnt() -> None:
    view, given = kinds((10, 0, 50), (20, 1, 50), (30, 2, 4)), tools(4)
    half = np.full(104, 0.5)
    said = pace(view, {"kept": np.ones(104, bool), "right": half, "sure": half}, range(3), given)
    assert np.flatnonzero(~said["kept"]).tolist() == [100, 101, 102, 103]
    assert [count for _, count, _ in given.trained] == [104, 100, 100]
    assert said["right"][0] == pytest.approx(1 - 0.5 * 0.8**3) and said["right"][-1] == pytest.approx(0.5 * 0.8**3)
    assert said["sure"][0] == pytest.approx(0.5 * 0.8**3 + (1 - 0.8**3) / (1 + 3 * np.exp(-5)), rel=1e-3)


def test_incompatible_examples_are_outvoted() -> None:
    view, given = kinds((10, 0, 150), (20, 1, 150), (30, 2, 150), (40, 1, 12)), tools(4)
    for rounds in (5, 0):
        scores = IncompatibilityClustering(rounds=rounds).score(view, given)
        assert np.flatnonzero(given.flagged).tolist() == list(range(450, 462))
        assert scores[450:].min() > scores[:450].max()


def test_a_vote_outweighs_whatever_the_rounds_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """From poisons that were elected the rounds learn the backdoor, and are surest of it."""
    predicted = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    said = {"right": np.array([1.0, 0.0, 1.0, 1.0]), "sure": np.array([0.9, 0.2, 1.0, 1.0])}
    view, given = kinds((10, 0, 4)), tools(4)
    monkeypatch.setattr(IncompatibilityClustering, "_predicted", lambda *_: predicted)
    monkeypatch.setattr(IncompatibilityClustering, "_paced", lambda *_: said)
    scores = IncompatibilityClustering().score(view, given)
    assert np.argsort(scores).tolist() == [0, 1, 2, 3]
    assert scores.tolist() == pytest.approx([0.025, 0.2, 2 / 3, 1.0])
    assert given.flagged.tolist() == [False, True, False, False]


@pytest.mark.slow  # some thirty networks: 30 seconds
def test_on_digits_it_votes_against_poisons(on_digits: Callable[..., Record]) -> None:
    record = on_digits("blend:rate=.02", "ispl:passes=1,rounds=0")
    assert record.oracles == [] and record.detection is not None and record.detection.auroc is not None
    assert record.detection.auroc > 0.8
