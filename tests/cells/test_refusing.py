"""Inputs that are refused: which, at what threshold, and what that does to the model's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import bdbench
from bdbench import InputDetector, State, Streams, Tools, param
from bdbench.cells import metrics
from bdbench.components.workshop import Oracle


@dataclass(frozen=True, kw_only=True)
class Learns(InputDetector):
    """Knows the clean images that it is fitted to by heart, and suspects all others."""

    name = "learns"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)
    clean: int | None = param(None, help="how many it is fitted to")

    def fit(self, tools: Tools) -> State:
        return {"known": np.asarray(tools.clean_examples(self.clean).images)}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        known = {image.tobytes() for image in state["known"]}
        return np.array([image.tobytes() not in known for image in images], float)


def test_the_threshold_is_set_by_clean_images_that_a_detector_was_not_fitted_to(tiny: dict[str, Any]) -> None:
    alike = bdbench.run(defense=Learns(clean=50), **tiny).inputs
    assert alike is not None and alike.fpr is not None and alike.fpr < 0.15
    arrays = np.load(next(tiny["out"].glob("*learns*")) / "scores.npz")
    # Of 72 set apart 22 are left: all images of any kind have the highest score, of which one in 22 is refused.
    assert arrays["reserve_scores"].sum() == 22 and arrays["clean_scores"].all()
    # If it was given all, there are no others.
    everything = bdbench.run(defense=Learns(), **tiny).inputs
    assert everything is not None and everything.fpr == 1.0


@dataclass(frozen=True, kw_only=True)
class Asks(Learns):
    """The same, by way of the oracle."""

    name = "asks"

    def fit(self, tools: Tools) -> State:
        return {"known": np.asarray(tools.oracle("clean_set").images)[: self.clean]}


def test_who_asks_for_the_whole_clean_set_was_given_all_of_it(tiny: dict[str, Any]) -> None:
    # Of 72 it learns 40. Who is known to have had these has his threshold from the other 32: one of them is beyond it;
    # and else from all, of which three are, all of them among the 32.
    shares = []
    for defense in (Learns(clean=40), Asks(clean=40)):
        found = bdbench.run(defense=defense, **tiny).inputs
        assert found is not None and found.fpr is not None
        shares.append(found.fpr)
    assert shares == [pytest.approx(1 / 32, abs=0.02), pytest.approx(3 / 32, abs=0.03)]


@dataclass(frozen=True, kw_only=True)
class Odd(InputDetector):
    """Suspects every image whose pixels have an odd sum, but for those that it is given."""

    name = "odd"
    oracles: ClassVar[tuple[Oracle, ...]] = ("clean_set",)

    def fit(self, tools: Tools) -> State:
        return {"known": np.asarray(tools.clean_examples().images)}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        known = {image.tobytes() for image in state["known"]}
        return np.array([image.tobytes() not in known and int(image.sum()) % 2 for image in images], float)


@pytest.mark.parametrize("attack", ["badnets:rate=0.05", "tact:rate=0.1,cover_rate=0.1"])
def test_what_refusing_does_by_hand(tiny: dict[str, Any], attack: str) -> None:
    found, same = bdbench.run_all(defenses=[Odd(), "none"], **{**tiny, "attack": attack})
    run, scores = bdbench.reopen(tiny["out"] / same.id, device="cpu"), np.load(tiny["out"] / found.id / "scores.npz")
    clean, challenged = scores["clean_scores"], scores["challenge_scores"]
    assert 0.3 < clean.mean() < 0.7 and not scores["reserve_scores"].any()
    # Of 72 with the lowest score three are refused, so that of the others with that score chance refuses as many.
    limit, chance = metrics.Threshold(0.0, 3 / 72), Streams(0)("refused of equal scores")
    of_clean, of_challenged = limit.refused(clean, chance), limit.refused(challenged, chance)
    test, challenge, attacked = run.clean.test, run.challenge, run.attacked
    assert challenge is not None and found.after is not None and found.inputs is not None
    right = run.victim().predict(np.asarray(test.images)) == test.labels
    assert found.after.clean_accuracy == pytest.approx((right & ~of_clean).mean())
    obeyed = run.victim().predict(challenge.images) == challenge.goal
    assert 0 < obeyed[attacked].sum() < attacked.sum()
    assert found.after.attack_success_rate == pytest.approx((obeyed & ~of_challenged)[attacked].mean())
    # By hand: the AUROC of two values is half of one and the difference of their shares.
    among = challenged[attacked & obeyed].mean() - clean.mean()
    assert found.inputs.auroc_obeyed == pytest.approx(0.5 + among / 2)
    assert found.inputs.auroc == pytest.approx(0.5 + (challenged[attacked].mean() - clean.mean()) / 2)
    bystanders = of_challenged[~attacked]
    assert found.inputs.bystander_fpr == (pytest.approx(bystanders.mean()) if len(bystanders) else None)


@dataclass(frozen=True, kw_only=True)
class Places(InputDetector):
    """Suspects what it is shown last."""

    name = "places"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return np.arange(len(images), dtype=float)


def test_where_an_image_stands_tells_a_detector_nothing(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Places(), **tiny).inputs
    assert found is not None and found.auroc is not None and 0.4 < found.auroc < 0.6
