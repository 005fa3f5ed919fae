from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import bdbench
from bdbench import BdbenchError, Detector, Streams, Tools, TrainingView, Victim, param
from bdbench.networks.training import Trainer
from bdbench_models.networks import SmallConvNet


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 4


@dataclass(frozen=True, kw_only=True)
class Rate(Detector):
    name = "rate"
    oracles = ("poison_rate",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.full(len(view.labels), tools.oracle("poison_rate"))


def test_scores_are_those_of_the_victim_that_is_given(arrays: Any, tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense="low-loss", **tiny)
    run = bdbench.reopen(tiny["out"] / found.id, device="cpu")
    for victim in (run.victim(), run.victim().arrays()):
        scores = bdbench.detect(
            "low-loss",
            run.poisoned.images,
            run.poisoned.labels,
            num_classes=10,
            model=tiny["model"],
            dataset="digits",
            victim=victim,
            device="cpu",
        )
        assert np.allclose(scores, run.scores)


def test_without_a_victim_one_is_trained_from_the_seed(arrays: Any) -> None:
    def scores(seed: int) -> np.ndarray:
        return bdbench.detect(
            "low-loss", *arrays, num_classes=4, model="convnet:width=4,epochs=1", seed=seed, device="cpu"
        )

    assert np.array_equal(scores(0), scores(0)) and not np.array_equal(scores(0), scores(1))


def test_oracles_must_be_given(arrays: Any) -> None:
    options: dict[str, Any] = {"num_classes": 4, "model": "convnet:width=4,epochs=1", "device": "cpu"}
    with pytest.raises(BdbenchError, match="detector 'rate' needs the oracle 'poison_rate'"):
        bdbench.detect(Rate(), *arrays, **options)
    assert set(bdbench.detect(Rate(), *arrays, oracles={"poison_rate": 0.25}, **options)) == {0.25}


def test_arrays_that_are_no_training_set_are_refused(arrays: Any) -> None:
    images, labels = arrays
    with pytest.raises(BdbenchError, match=r"training labels are int64 in 0\.\.3: expected integers in 0\.\.2"):
        bdbench.detect("random", images, labels, num_classes=3)
    for odd in (labels[1:], labels[:, None], np.eye(4, dtype=np.int64)[labels], labels[0]):
        with pytest.raises(BdbenchError, match=r"labels have shape \(.*\): expected one for each of 40 images"):
            bdbench.detect("random", images, odd, num_classes=4)
    for odd in (labels.astype(str), labels.astype(object), labels / 1.0):
        with pytest.raises(BdbenchError, match=r"training labels are .*: expected integers in 0\.\.3"):
            bdbench.detect("random", images, odd, num_classes=4)
    bad: Any
    for bad in ("4", None, 4.0, 0):
        with pytest.raises(BdbenchError, match="num_classes=.* is not allowed: expected an integer >= 1"):
            bdbench.detect("random", images, labels, num_classes=bad)
    for bad in ("0", [1], -1):
        with pytest.raises(BdbenchError, match="seed=.* is not allowed: expected an integer >= 0"):
            bdbench.detect("random", images, labels, num_classes=4, seed=bad)


def test_a_model_that_gives_no_numbers_is_not_one_that_says_class_0(arrays: Any) -> None:
    images = arrays[0]
    torch.manual_seed(0)
    victim = Victim(SmallConvNet(images.shape[3], 4, 4), *np.full((2, images.shape[3]), 0.5, np.float32), "cpu")
    assert victim.predict(images).shape == (40,)
    next(iter(victim.network.parameters())).data.fill_(torch.nan)
    with pytest.raises(BdbenchError, match="the model gives NaN for 40 of 40 images"):
        victim.predict(images)


@dataclass(frozen=True, kw_only=True)
class Choosy(Detector):
    name = "choosy"
    oracle: bool = param(False, help="whether it is told the rate", oracle="poison_rate")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.full(len(view.labels), tools.oracle("poison_rate") if self.oracle else 0.0)


def test_a_parameter_asks_for_an_oracle(arrays: Any) -> None:
    assert Choosy().told == () and Choosy().access == ("training_set",)
    assert Choosy(oracle=True).told == ("poison_rate",)
    assert Choosy(oracle=True).access == ("training_set", "poison_rate")
    given: dict[str, Any] = {"num_classes": 4, "model": "convnet:epochs=1,width=4", "device": "cpu"}
    for defense, expected in ((Choosy(), 0.0), (Choosy(oracle=True), 0.25)):
        assert np.all(bdbench.detect(defense, *arrays, oracles={"poison_rate": 0.25}, **given) == expected)
    with pytest.raises(BdbenchError, match="needs the oracle 'poison_rate'"):
        bdbench.detect(Choosy(oracle=True), *arrays, **given)


@dataclass(frozen=True, kw_only=True)
class Gives(Detector):
    """Gives what it is made with."""

    name = "gives"
    found: ClassVar[Any] = None

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return type(self).found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.full(40, np.nan), "40 of them not finite"),
        (np.zeros(3), r"scores of shape \(3,\)"),
        (None, "returned nothing for scores"),
    ],
)
def test_what_a_detector_returns_is_checked(
    arrays: Any, monkeypatch: pytest.MonkeyPatch, found: Any, message: str
) -> None:
    monkeypatch.setattr(Gives, "found", found)
    with pytest.raises(BdbenchError, match=f"defense 'gives' .*{message}"):
        bdbench.detect(Gives(), *arrays, num_classes=4, model="convnet:width=4,epochs=1", device="cpu")


def test_other_arguments_of_detect_are_checked(arrays: Any) -> None:
    options: dict[str, Any] = {"model": "convnet:width=4,epochs=1", "device": "cpu"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"num_classes": 10**20}, "num_classes=.* is not allowed: expected at most 1000000"),
        ({"oracles": 5}, "oracles=5 is not allowed: expected a mapping"),
        ({"victim": "x.pt"}, "victim='x.pt' is not allowed: expected a Victim"),
        ({"victim": {"a": np.zeros(3)}}, "victim brings weights that do not fit model 'convnet'"),
    ]
    for changed, message in wrong:
        with pytest.raises(BdbenchError, match=message):
            bdbench.detect("low-loss", *arrays, **{"num_classes": 4, **options, **changed})
    for budget in (-0.1, 1.1, np.nan):
        with pytest.raises(BdbenchError, match=r"budget=.* is not allowed: expected a share in 0\.\.1"):
            bdbench.most_suspicious(np.zeros(4), budget)
    with pytest.raises(BdbenchError, match="not finite"):
        bdbench.most_suspicious(np.array([0.0, np.nan]), 0.5)


def test_a_victim_is_trained_from_its_own_stream(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, train = [], Trainer.train

    def watched(self: Trainer, images: Any, labels: Any, seed: int, *rest: Any, **options: Any) -> Victim:
        seeds.append(seed)
        return train(self, images, labels, seed, *rest, **options)

    monkeypatch.setattr(Trainer, "train", watched)
    bdbench.detect("low-loss", *arrays, num_classes=4, model="convnet:width=4,epochs=1", seed=0, device="cpu")
    assert seeds == [Streams(0).integer("victim")]


def test_the_most_suspicious_come_first_and_chance_decides_among_equals() -> None:
    assert bdbench.most_suspicious(np.array([1.0, 9.0, 5.0, 7.0]), 0.5).tolist() == [1, 3]
    drawn = [bdbench.most_suspicious(np.zeros(40), 0.25, seed).tolist() for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1] and all(len(set(one)) == 10 for one in drawn)
