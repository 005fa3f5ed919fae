"""What a challenge is put to: every model of a cell, a clean one, and images that are shown as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import bdbench
from bdbench import (
    Attack,
    Challenge,
    InputDetector,
    PoisonedData,
    Split,
    State,
    Tools,
    Workshop,
)
from tests.cells.defenders import Constant, Corner, Tuned


def test_predictions_on_one_challenge_are_not_taken_for_those_on_another(tiny: dict[str, Any]) -> None:
    """The same poisoned set, victim and defense, and another trigger at test time."""
    found = {}
    for strength in (0.2, 0.9):
        cell = {**tiny, "attack": f"blend:test_alpha={strength}"}
        found[strength] = bdbench.run_all(defenses=[Tuned(), Constant(), Corner()], **cell)
    for one, other in zip(*found.values(), strict=True):
        assert one.config["data"]["poisoned"] == other.config["data"]["poisoned"]
        assert one.before != other.before
    assert found[0.2][0].after != found[0.9][0].after
    assert found[0.2][2].inputs is not None and found[0.9][2].inputs is not None
    assert found[0.2][2].inputs.auroc != found[0.9][2].inputs.auroc
    # A shorter test set, as a reserve from it leaves: other predictions, of another length.
    shorter = bdbench.run(defense=Constant(), **{**tiny, "dataset": "digits:subset=300", "reserve": 0.1})
    assert shorter.after is not None


def test_the_floor_is_what_a_clean_model_does(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.networks.training import Trainer

    control = bdbench.run(defense="none", **{**tiny, "attack": "none"}, floor=True)
    trained: list[str] = []
    train = Trainer.train
    monkeypatch.setattr(
        Trainer,
        "train",
        lambda self, *a, **kw: (trained.append(a[3]), train(self, *a, **kw))[1],  # type: ignore[func-returns-value]
    )
    made = bdbench.run(defense="none", **tiny, floor=True)
    # The clean model is the control's victim, which is found again.
    assert trained == ["train the victim"]
    assert control.floor is None and made.floor is not None
    assert made.floor.clean_accuracy == control.before.clean_accuracy
    clean = bdbench.reopen(tiny["out"] / control.id).victim()
    again = bdbench.reopen(tiny["out"] / made.id)
    assert again.challenge is not None
    obeyed = clean.predict(again.challenge.images) == again.challenge.goal
    assert made.floor.attack_success_rate == float(obeyed.mean())
    assert bdbench.run(defense="none", **tiny).floor is None


PAIRS: set[bytes] = set()


@dataclass(frozen=True, kw_only=True)
class AsTheyAre(Attack):
    """Nothing is planted, and half of the test images are the challenge, as they are: to be called class 0."""

    name = "as-they-are"
    plants: ClassVar[bool] = False

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        labels = train.labels
        return PoisonedData(np.array(train.images), labels.copy(), np.zeros(len(labels), np.int8), labels.copy())

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        index = np.flatnonzero(test.labels % 2 == 1)
        images = np.asarray(test.images)[index]
        PAIRS.update(image.tobytes() for image in images)
        return Challenge(images, index, np.zeros(len(index), np.int64))


@dataclass(frozen=True, kw_only=True)
class Knows(InputDetector):
    """Knows every image of the challenge by its pixels."""

    name = "knows"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return np.array([float(image.tobytes() in PAIRS) for image in images])


def test_an_image_that_is_shown_as_it_is_counts_once(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Knows(), **{**tiny, "attack": AsTheyAre()})
    assert found.inputs is not None
    assert (found.inputs.auroc, found.inputs.tpr_at_1pct_fpr) == (1.0, 1.0)
    # Of clean images, which are all alike to it, chance refuses one in twenty; half of all are of the challenge.
    assert found.inputs.fpr is not None and 0 < found.inputs.fpr < 0.15
