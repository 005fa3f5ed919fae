"""What a component does reaches no other: pieces, writes, conclusions, nested training and what a model may know."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import bdbench
from bdbench import (
    Detector,
    InputDetector,
    Mitigation,
    Model,
    State,
    Tools,
    TrainingView,
    param,
)
from tests.cells.defenders import Corner


@dataclass(frozen=True, kw_only=True)
class Keeper(Detector):
    """Saves the victim's features under one name, whatever the victim."""

    name = "keeper"
    shared: bool = param(False, help="says that they hang on no victim, which is not so")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        made = tools.saved(
            {"features": "victim"}, lambda: {"x": tools.victim.features(view.images)}, shared=self.shared
        )
        return made["x"].mean(1).astype(np.float64)


def test_pieces_are_another_victims_only_if_they_say_that_they_hang_on_none(tiny: dict[str, Any]) -> None:
    def scores(width: int, epochs: int, shared: bool) -> np.ndarray:
        cell = {**tiny, "model": f"convnet:width={width},epochs={epochs}"}
        found = bdbench.run(defense=Keeper(shared=shared), budget=0, **cell)
        return np.load(tiny["out"] / found.id / "scores.npz")["scores"]

    small = scores(4, 2, False)
    assert not np.array_equal(small, scores(8, 2, False))  # another architecture
    assert not np.array_equal(small, scores(4, 1, False))  # another recipe
    assert np.array_equal(scores(4, 2, True), scores(8, 2, True))  # as it said, wrongly


def test_detect_in_one_folder_keeps_the_pieces_of_two_victims_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 4

    def scores(seed: int) -> np.ndarray:
        options: dict[str, Any] = {"num_classes": 4, "model": "convnet:width=4,epochs=1", "device": "cpu"}
        victim = bdbench.networks.training.Trainer(
            _network, bdbench.Recipe(epochs=1, batch_size=8, lr=0.01), "cpu", _quiet
        )
        arrays = victim.train(images, labels, seed).arrays()
        return bdbench.detect(Keeper(), images, labels, victim=arrays, folder=tmp_path, **options)

    assert not np.array_equal(scores(0), scores(1))
    assert np.array_equal(scores(0), scores(0))


def _network() -> Any:
    from bdbench_models.networks import SmallConvNet

    return SmallConvNet(1, 4, 4)


def _quiet(total: int, label: str) -> Any:
    return lambda steps: None


@dataclass(frozen=True)
class Scribbler:
    """A model that writes on what it is shown."""

    victim: Any

    def predict(self, images: np.ndarray) -> np.ndarray:
        images[:] = 0
        return np.zeros(len(images), np.int64)


@dataclass(frozen=True, kw_only=True)
class Scribbles(Mitigation):
    name = "scribbles"

    def repair(self, tools: Tools) -> Model:
        tools.victim.mean[:] = 9
        return Scribbler(tools.victim)


def test_no_defense_can_write_on_what_the_others_are_measured_with(tiny: dict[str, Any]) -> None:
    from bdbench import experiment

    alone = bdbench.run(defense=Corner(), **{**tiny, "out": tiny["out"] / "alone"})
    bad, after = experiment.run_each(defenses=[Scribbles(), Corner()], **tiny)
    assert isinstance(bad, ValueError) and "read-only" in str(bad)
    assert isinstance(after, bdbench.Record)
    assert (after.after, after.before) == (alone.after, alone.before)


@dataclass
class Listener:
    """A model that notes what it is asked, and answers by the image."""

    asked: list[np.ndarray]

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.asked.append(images.copy())
        return (images.astype(int).sum((1, 2, 3)) % 10).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Listens(Mitigation):
    name = "listens"
    heard: ClassVar[list[np.ndarray]] = []

    def repair(self, tools: Tools) -> Model:
        return Listener(self.heard)


def test_a_model_cannot_tell_from_the_call_what_it_is_asked(tiny: dict[str, Any]) -> None:
    Listens.heard.clear()
    made, other = bdbench.run_all(defenses=[Listens(), "random"], **tiny)
    (heap,) = Listens.heard
    again = bdbench.reopen(tiny["out"] / other.id)
    assert again.challenge is not None
    test, challenged = np.asarray(again.clean.test.images), again.challenge.images
    assert len(heap) == len(test) + len(challenged)
    known = {image.tobytes() for image in test}
    from_test = np.array([image.tobytes() in known for image in heap])
    # Shuffled: of the first half about as many are test images as of the second.
    assert abs(from_test[: len(heap) // 2].mean() - from_test[len(heap) // 2 :].mean()) < 0.15
    answers = Listener([]).predict(test)
    assert made.after is not None and made.after.clean_accuracy == float((answers == again.clean.test.labels).mean())
    obeyed = Listener([]).predict(challenged) == again.challenge.goal
    assert made.after.attack_success_rate == float(obeyed.mean())


@dataclass(frozen=True, kw_only=True)
class Nested(Detector):
    """Two models in a piece, one of them in a piece of that; scores that hang on ``salt`` alone are made anew."""

    name = "nested"
    salt: int = param(0, help="another one, another result of the whole")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        def inner() -> State:
            time.sleep(0.2)
            return tools.train(view.images, view.labels, "inner").arrays()

        def outer() -> State:
            tools.saved({"nested": "inner"}, inner)
            tools.count_models(1)
            return {"done": np.ones(1)}

        tools.saved({"nested": "outer"}, outer)
        return np.arange(len(view.labels)) * 1.0


def test_what_is_found_again_costs_what_it_cost(tiny: dict[str, Any]) -> None:
    first, second = (bdbench.run(defense=Nested(salt=salt), **tiny) for salt in (1, 2))
    assert first.cost.models_trained == second.cost.models_trained == 3
    assert first.cost.seconds["score"] > 0.2 and second.cost.seconds["score"] > 0.2


@dataclass(frozen=True, kw_only=True)
class Spoils(Mitigation):
    """Writes into the clean examples round their being read-only, and repairs nothing."""

    name = "spoils"
    oracles = ("clean_set",)

    def repair(self, tools: Tools) -> Model:
        trusted = tools.oracle("clean_set")
        for array in (trusted.images, trusted.labels):
            array.flags.writeable = True
            array[:] = 0
        return tools.victim


@dataclass(frozen=True, kw_only=True)
class Bright(InputDetector):
    """Scores an image by how bright it is."""

    name = "bright"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return images.mean((1, 2, 3)).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Told(Mitigation):
    """Notes the clean examples that it is told."""

    name = "told"
    oracles = ("clean_set",)
    heard: ClassVar[list[np.ndarray]] = []

    def repair(self, tools: Tools) -> Model:
        self.heard.append(np.array(tools.oracle("clean_set").labels))
        return tools.victim


def test_no_defense_spoils_the_clean_examples_of_others(tiny: dict[str, Any]) -> None:
    alone = bdbench.run(defense=Bright(), **{**tiny, "out": tiny["out"] / "alone"})
    Told.heard.clear()
    *_, beside = bdbench.run_all(defenses=[Spoils(), Told(), Bright()], **tiny)
    (heard,) = Told.heard
    assert len(set(heard.tolist())) > 1
    for found in (alone, beside):
        assert found.inputs is not None and found.inputs.fpr is not None and found.inputs.fpr < 0.5
    assert beside.inputs is not None and alone.inputs is not None
    assert (beside.inputs.fpr, beside.inputs.auroc) == (alone.inputs.fpr, alone.inputs.auroc)


def test_inputs_come_as_one_heap_in_no_order(tiny: dict[str, Any]) -> None:
    heard: list[np.ndarray] = []

    @dataclass(frozen=True, kw_only=True)
    class Hears(Bright):
        name = "hears"

        def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
            heard.append(images.copy())
            return super().score(images, state, tools)

    made, other = bdbench.run_all(defenses=[Hears(), "random"], **tiny)
    (heap,) = heard
    again = bdbench.reopen(tiny["out"] / other.id)
    assert again.challenge is not None and again.clean.reserve is not None
    parts = [again.clean.test.images, again.challenge.images, again.clean.reserve.images]
    counts = [len(part) for part in parts]
    assert len(heap) == sum(counts)
    known = {image.tobytes() for image in np.asarray(parts[1])}
    attacked = np.array([image.tobytes() in known for image in heap])
    half = len(heap) // 2
    assert abs(attacked[:half].mean() - attacked[half:].mean()) < 0.15
    # Each score is its image's own.
    scores = np.load(tiny["out"] / made.id / "scores.npz")
    for name, part in zip(("clean_scores", "challenge_scores", "reserve_scores"), parts, strict=True):
        assert np.array_equal(scores[name], np.asarray(part).mean((1, 2, 3)))


@dataclass(frozen=True, kw_only=True)
class Rated(Detector):
    """Saves what follows from the rate that it is told."""

    name = "rated"
    oracles = ("poison_rate",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        rate = tools.oracle("poison_rate")
        return tools.saved({"rated": "all"}, lambda: {"x": np.full(len(view.labels), rate)})["x"]


def test_pieces_are_of_what_was_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 4
    options: dict[str, Any] = {"num_classes": 4, "model": "convnet:width=4,epochs=1", "device": "cpu"}
    for rate in (0.1, 0.2, 0.1):
        told: Any = {"poison_rate": rate}
        assert (bdbench.detect(Rated(), images, labels, oracles=told, folder=tmp_path, **options) == rate).all()


@dataclass(frozen=True, kw_only=True)
class Sure(Mitigation):
    """Repairs nothing, and is sure that there is something to repair."""

    name = "sure"

    def repair(self, tools: Tools) -> Model:
        tools.conclude(p_value=0.0625)
        return tools.victim


@dataclass(frozen=True, kw_only=True)
class SureOfInputs(Bright):
    name = "sure-of-inputs"

    def fit(self, tools: Tools) -> State:
        tools.conclude(p_value=0.125)
        return {}


def test_a_p_value_is_recorded_at_every_stage_and_found_again(tiny: dict[str, Any]) -> None:
    for defense, p in ((Sure(), 0.0625), (SureOfInputs(), 0.125)):
        for _ in "12":
            assert bdbench.run(defense=defense, **tiny).p_value == p


@dataclass(frozen=True, kw_only=True)
class Fat(Mitigation):
    """Holds 400 MiB for a moment."""

    name = "fat"

    def repair(self, tools: Tools) -> Model:
        assert np.ones(50 * 2**20).any()
        return tools.victim


def test_the_memory_of_a_defense_is_not_that_of_the_one_before(tiny: dict[str, Any]) -> None:
    fat, slim = bdbench.run_all(defenses=[Fat(), Corner()], **tiny)
    assert fat.cost.peak_memory_mb > slim.cost.peak_memory_mb + 200
