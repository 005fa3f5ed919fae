from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bdbench import BdbenchError, Detector, Needs, Tools, TrainingView, param
from bdbench.host import memory
from bdbench.scanning import foresight, front, reading
from bdbench.scanning.foresight import Expected, Foresight
from tests.scanning.conftest import MODEL, Patch, Ranks

EACH = 5e-4  # seconds for an image and a model


@dataclass(frozen=True, kw_only=True)
class Steady(Detector):
    """Takes its time for every image and every model, and some before."""

    name = "steady"
    seconds: float | None = param(None, help="train two models, if given")

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        return Needs(1000 * examples, 6)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        models = 6 if self.seconds is None else 2
        tools.count_models(models)
        time.sleep(0.1 + EACH * models * len(view.labels))
        return np.zeros(len(view.labels))


def prepared(count: int = 900, detector: Detector | None = None, **options: Any) -> front.Prepared:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)
    plan = front.Plan(defenses=[detector or Steady()], model=MODEL, device="cpu", **options)
    return front.prepare((images, np.arange(count) % 3), plan, options.pop("folder", Path("nowhere")))


def test_time_grows_with_images_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = prepared().foresight
    assert told is not None
    (one,) = told.detectors
    assert one.models == 6 and one.memory == 1000 * 900 and not one.looks
    assert one.seconds == pytest.approx(0.1 + EACH * 6 * 900, rel=0.5)
    lines = "\n".join(told.lines())
    assert "detector steady: 6 small networks, about " in lines and "KiB of memory" in lines
    limited = prepared(seconds=60).foresight
    assert limited is not None and limited.detectors[0].seconds == 60
    assert "as many small networks as the time allows" in "\n".join(limited.lines())


@dataclass(frozen=True, kw_only=True)
class Compiling(Steady):
    """Takes a second longer when it is first used."""

    name = "compiling"
    used: ClassVar[list[int]] = []

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        if not self.used:
            time.sleep(1.0)
        self.used.append(len(view.labels))
        return super().score(view, tools)


@pytest.mark.parametrize(
    ("slow", "sizes"), [(0.9, [1, 1, 3]), (0.2, [1, 1])], ids=["quick once compiled", "slow all the same"]
)
def test_what_comes_with_the_first_use_is_no_pace(
    slow: float, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is: compiling took 20 s on a busy machine, and a scan of ten minutes was to take 1:44:35."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foresight, "_SLOW", slow)
    Compiling.used.clear()
    told = prepared(detector=Compiling()).foresight
    assert told is not None and [round(size / 150) for size in Compiling.used] == sizes
    seconds = told.detectors[0].seconds
    assert seconds is not None and 0.9 * EACH * 6 * 900 <= seconds <= 1.5 * (6 * 0.1 + EACH * 6 * 900)


def test_a_detector_that_needs_too_much_is_refused_with_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 700_000)
    with pytest.raises(BdbenchError, match=r"defense 'steady' on 900 images .* --subset 700, or a smaller --size"):
        prepared()


def test_what_cannot_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a tenth less would fit: copies may leave that few."""
    monkeypatch.chdir(tmp_path)
    read: list[int] = []
    decoded = reading._decoded

    def noted(*args: Any) -> Any:
        read.append(1)
        return decoded(*args)

    monkeypatch.setattr(reading, "_decoded", noted)
    monkeypatch.setattr("bdbench.cells.forecast.of_training", lambda ground: 0)
    monkeypatch.setattr(memory, "available", lambda: 800_000)
    with pytest.raises(BdbenchError, match=r"defense 'steady' on 900 images .* --subset 800, or a smaller --size"):
        prepared()
    assert not read
    monkeypatch.setattr(memory, "available", lambda: 820_000)
    with pytest.raises(BdbenchError, match=r"defense 'steady' on 900 images .* --subset 820, or a smaller --size"):
        prepared()
    assert read


@dataclass(frozen=True, kw_only=True)
class Settled(Steady):
    """Takes a time or a number of networks, and notes the sets that it is tried on."""

    name = "settled"
    models: int | None = param(None, help="how many")
    seen: ClassVar[list[tuple[int, np.ndarray]]] = []

    def __post_init__(self) -> None:
        if self.models and self.seconds:
            raise BdbenchError("seconds and models are both given: expected one")

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        return Needs(0, self.models)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        models = 2 if self.seconds else self.models or 6
        self.seen.append((models, np.bincount(view.labels, minlength=view.num_classes)))
        tools.count_models(models)
        return np.zeros(len(view.labels))


def test_the_pace_is_that_of_few_networks_and_of_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Settled.seen.clear()
    labels = np.repeat([0, 1], [10, 890])
    images = np.random.default_rng(0).integers(0, 256, (900, 8, 8)).astype(np.uint8)
    plan = front.Plan(defenses=[Settled(models=4000)], model=MODEL, device="cpu")
    told = front.prepare((images, labels), plan, Path("nowhere")).foresight
    assert told is not None and told.detectors[0].models == 4000
    assert {models for models, _ in Settled.seen} == {2} and len(Settled.seen) == 3
    assert min(counts.min() for _, counts in Settled.seen) >= 4


def test_the_time_is_that_of_all_trainings_and_all_detectors() -> None:
    each = Expected(Patch(), None, 5.0, None, True), Expected(Ranks(), None, None, None, False)
    told = Foresight(2.0, 3, 4, each)
    # Two trainings of two seconds, and what is known of the detectors.
    assert told.seconds == 9 and (told.to_dict()["memory"], told.to_dict()["free"]) == (3, 4)


def test_a_training_takes_its_epochs_and_the_images_are_held_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bdbench.cells.forecast.seconds_per_image", lambda *_: 0.001)
    monkeypatch.setattr("bdbench.cells.forecast.of_training", lambda ground: 0)
    monkeypatch.setattr(foresight, "_tried", lambda *_: (1.0, False))
    plan = front.Plan(defenses=[Steady()], model="convnet:width=4,epochs=3", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (900, 8, 8)).astype(np.uint8)
    told = front.prepare((images, np.arange(900) % 3), plan, Path("nowhere")).foresight
    assert told.each == pytest.approx(0.001 * 900 * 3)
    assert told.memory == 900 * 8 * 8 + 900_000  # what Steady says of as many


def test_less_time_than_it_takes_is_not_foreseen_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepared(seconds=0.01).foresight.detectors[0].seconds > 0.5
