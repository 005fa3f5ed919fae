from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import BdbenchError, Record, Split
from bdbench_inspection.scale_up import ScaleUp, multiplied


def column(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def tools(clean: list[int] | None = None, labels: list[int] | None = None) -> Any:
    """A model of one pixel that says 1 from 100 on, and 2 of 200 and more."""

    def predict(images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images)) >= 100) + (images.reshape(len(images)) >= 200).astype(np.int64)

    reserve = Split(column(clean or []), np.array(labels or [], np.int64))
    return SimpleNamespace(victim=SimpleNamespace(predict=predict), num_classes=3, clean_examples=lambda count: reserve)


def test_pixels_are_cut_off() -> None:
    assert multiplied(column([0, 10, 50, 90]), 3.0).ravel().tolist() == [0, 30, 150, 255]
    assert multiplied(column([3]), 1.5).ravel().tolist() == [4]


def test_the_share_of_multiples_with_the_same_label_by_hand() -> None:
    # 10: 30, 50, 70, 90, 110; 20: 60, 100, ...; 30: 90, 150, ...; 150 ends at 255 every time; so does 250.
    scores = ScaleUp().score(column([10, 20, 30, 150, 250]), {}, tools())
    assert scores == pytest.approx([0.8, 0.2, 0.2, 0.0, 1.0]) and scores.dtype == np.float64


def test_factors_are_as_asked_for() -> None:
    # 10 is 20, as it was, and 200; 60 is 120 and 255.
    assert ScaleUp(factors=(2.0, 20.0)).score(column([10, 60]), {}, tools()) == pytest.approx([0.5, 0.0])


def test_clean_examples_of_the_same_label_are_the_measure() -> None:
    given, defense = tools([10, 20, 250, 250, 150], [0, 0, 2, 2, 1]), ScaleUp(limited=True)
    assert defense.told == ("clean_set",) and not ScaleUp().told
    state = defense.fit(given)
    # Of label 1 there is one example: it takes the moments of all five, 0.8, 0.2, 1, 1 and 0.
    assert state["mean"] == pytest.approx([0.5, 0.6, 1.0])
    # The two of label 2 are alike: half a step in place of 0.
    assert state["deviation"] == pytest.approx([0.3, np.std([0.8, 0.2, 1, 1, 0]), 0.1])
    assert defense.score(column([10, 0, 250]), state, given) == pytest.approx([1.0, 0.5 / 0.3, 0.0])


def test_factors_below_one_are_refused() -> None:
    with pytest.raises(BdbenchError, match=r"factors=0.5 is not allowed: expected"):
        ScaleUp(factors=(0.5,))


def test_it_finds_a_blend_on_digits_where_it_may_compare(on_digits: Callable[..., Record]) -> None:
    # Digits are all but black and white: multiplied, most clean ones are the same, so that SPC alone says little.
    limited, free = (on_digits("blend:rate=.1", f"scale-up{how}").inputs for how in (":limited=true", ""))
    assert limited is not None and limited.auroc is not None and limited.auroc > 0.95
    assert free is not None and free.auroc is not None and 0.5 < free.auroc < limited.auroc
