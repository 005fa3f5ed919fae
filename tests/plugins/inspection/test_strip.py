from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import Record, Reopened, Split, Streams
from bdbench_inspection.strip import Strip, entropy, superimposed


def test_superpositions_by_hand() -> None:
    images = np.array([10, 200], np.uint8).reshape(2, 1, 1, 1)
    overlays = np.array([0, 101, 255], np.uint8).reshape(3, 1, 1, 1)
    assert superimposed(images, overlays, "sum").reshape(2, 3).tolist() == [[10, 111, 255], [200, 255, 255]]
    assert superimposed(images, overlays, "mean").reshape(2, 3).tolist() == [[5, 56, 133], [100, 151, 228]]


def test_entropies_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]))
    assert entropy(logits) == pytest.approx([1.5, np.log2(3)])
    assert entropy(np.array([[1000.0, 0.0]])) == pytest.approx([0.0])


def tools(reserve: np.ndarray) -> Any:
    """A model of one pixel whose two answers are as likely at 100, and further apart the further from it."""

    def logits(images: np.ndarray) -> np.ndarray:
        return np.stack([(images.reshape(len(images)) - 100.0) / 50, np.zeros(len(images))], 1)

    return SimpleNamespace(
        victim=SimpleNamespace(logits=logits),
        oracle={"clean_set": Split(reserve, np.zeros(len(reserve), np.int64))}.__getitem__,
        streams=Streams(0),
        track=lambda total, label: lambda steps: None,
    )


def bits(pixel: float) -> float:
    p = 1 / (1 + np.exp(-(pixel - 100) / 50))
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def test_scores_by_hand_and_an_overlay_that_is_the_input_is_left_out() -> None:
    given = tools(np.array([30, 80], np.uint8).reshape(2, 1, 1, 1))
    defense = Strip()
    state = defense.fit(given)
    assert sorted(state["overlays"].ravel().tolist()) == [30, 80]
    inputs = np.array([20, 90, 30], np.uint8).reshape(3, 1, 1, 1)
    expected = [-(bits(50) + bits(100)) / 2, -(bits(120) + bits(170)) / 2, -bits(110)]
    assert defense.score(inputs, state, given) == pytest.approx(expected)


def test_inputs_may_be_averaged_with_overlays() -> None:
    given = tools(np.array([30, 80], np.uint8).reshape(2, 1, 1, 1))
    defense = Strip(mix="mean")
    scores = defense.score(np.array([20], np.uint8).reshape(1, 1, 1, 1), defense.fit(given), given)
    assert scores == pytest.approx([-(bits(25) + bits(50)) / 2])


def test_overlays_are_drawn_from_the_reserve() -> None:
    given = tools(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1))
    drawn = Strip(overlays=10).fit(given)["overlays"].ravel()
    assert len(set(drawn.tolist())) == 10
    assert np.array_equal(drawn, Strip(overlays=10).fit(given)["overlays"].ravel())


@pytest.mark.parametrize("attack", ["badnets:rate=.1", "blend:rate=.1"])
def test_it_finds_triggered_digits_and_scores_each_alone(
    attack: str, on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    record = on_digits(attack, "strip")
    found = record.inputs
    assert found is not None and found.auroc is not None and found.auroc > 0.9
    assert found.fpr is not None and found.fpr < 0.15
    run = again(record)
    given, defense = run.tools(), run.defense
    assert isinstance(defense, Strip)
    state, images = defense.fit(given), np.asarray(run.clean.test.images)
    together = defense.score(images[:60], state, given)
    assert together == pytest.approx(run.arrays["clean_scores"][:60], abs=1e-5)
    assert defense.score(images[7:8], state, given) == pytest.approx(together[7:8], abs=1e-5)
