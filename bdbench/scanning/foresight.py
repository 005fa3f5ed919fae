"""What a scan will take, told before it starts: memory by what components say, time by this machine's own pace.

The pace of a detector is that of a small part of the set, which it is let at with as little time as it takes, where it
can be told how long to work: its own models trained are then counted against those that it would train.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from bdbench import forecast, guard, memory
from bdbench.data import TrainingView
from bdbench.defenses import Detector
from bdbench.errors import BdbenchError
from bdbench.preparation import stratified
from bdbench.progress import Progress, Silent
from bdbench.scanning import detecting
from bdbench.scanning.laboratory import Laboratory

_PART, _EACH = 300, 4
# A second-long look would train networks for a second; this asks for as few as there may be.
_LITTLE = 0.01
# A model for the detectors, and, where something is found, one without it.
_MODELS = 2


@dataclass(frozen=True)
class Expected:
    """Of one detector. models: None if it does not say; seconds: None if that could not be told; memory: bytes."""

    detector: Detector
    models: int | None
    seconds: float | None
    memory: int | None


@dataclass(frozen=True)
class Foresight:
    """trainings, each: how many models of the harness's own, and the seconds of one; available: bytes."""

    trainings: int
    each: float
    memory: int
    available: int | None
    detectors: tuple[Expected, ...]

    @property
    def seconds(self) -> float:
        """All of it, as far as it can be told."""
        return self.trainings * self.each + sum(one.seconds or 0 for one in self.detectors)

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"will train: {self.trainings} models to look into, about {_time(self.each)} each"
        for one in self.detectors:
            models = "" if one.models is None else f"{one.models} small networks, "
            seconds = "time not told" if one.seconds is None else f"about {_time(one.seconds)}"
            held = "" if one.memory is None else f", {memory.shown(one.memory)} of memory"
            yield f"detector {one.detector.name}: {models}{seconds}{held}"
        there = "an unknown amount" if self.available is None else memory.shown(self.available)
        yield f"in all: about {_time(self.seconds)} at this machine's pace, {memory.shown(self.memory)} of memory; {there} free"


def check_fits(laboratory: Laboratory, detectors: Sequence[Detector]) -> None:
    """Raise BdbenchError for what needs more memory than there is; it says what would fit."""
    ground = _ground(laboratory)
    forecast.check_training(ground)
    count = len(laboratory.view.labels)
    for one in detectors:

        def needed(examples: int, one: Detector = one) -> int:
            return ground.needs(one, examples).memory or 0

        most = memory.most(needed, count)
        if most < count:
            fits = f"--subset {most}, or a smaller --size" if most else "a smaller --size, or a machine with more"
            memory.check_memory(needed(count), f"defense {one.name!r} on {count} images", fits)


def foresee(laboratory: Laboratory, detectors: Sequence[Detector], device: str, progress: Progress) -> Foresight:
    """Measure the pace, in some seconds; nothing is kept of it."""
    ground = _ground(laboratory)
    with guard.call(laboratory.bench.architecture):
        recipe = ground.trainer.recipe
        each = forecast.seconds_per_image(ground) * len(ground.images) * recipe.epochs
    advance = progress.track(len(detectors), "measure the pace")
    expected = []
    for one in detectors:
        needs = ground.needs(one)
        expected.append(Expected(one, needs.models, _seconds(laboratory, one, device), needs.memory))
        advance(1)
    held = laboratory.view.images.nbytes + max(
        forecast.of_training(ground), *(one.memory or 0 for one in expected), 0
    )
    return Foresight(_MODELS, each, held, memory.available(), tuple(expected))


def _ground(laboratory: Laboratory) -> forecast.Ground:
    bench, view = laboratory.bench, laboratory.view
    return forecast.Ground(bench.architecture, bench.trainer, view.images, view.num_classes)


def _seconds(laboratory: Laboratory, one: Detector, device: str) -> float | None:
    """What a detector will take, from a small part; None if it fails on that."""
    limit = getattr(one, "seconds", None)
    if limit is not None:
        return float(limit)
    view = laboratory.view
    size = min(len(view.labels), max(_PART, _EACH * view.num_classes))
    rows = np.arange(size) if size == len(view.labels) else stratified(view.labels, size, laboratory.streams("pace"))
    part = TrainingView(guard.read_only(view.images[rows]), guard.read_only(view.labels[rows]), view.num_classes)
    hasty = dataclasses.replace(one, seconds=_LITTLE) if detecting.timed(one) and _open(one) else one
    with tempfile.TemporaryDirectory() as aside:
        small = Laboratory.on(
            part, laboratory.bench.architecture, laboratory.streams, device, Path(aside), Silent()
        )
        try:
            tools = small.tools(hasty)
            start = time.perf_counter()
            with guard.call(hasty):
                hasty.score(part, tools)
            seconds = time.perf_counter() - start
        except Exception:
            return None  # said, if it happens again, when its turn comes
    height, width, channels = part.images.shape[1:]
    models = one.needs(size, (height, width, channels), part.num_classes).models
    share = models / tools.models_trained if hasty is not one and models and tools.models_trained else 1.0
    return seconds * share * len(view.labels) / size


def _open(one: Detector) -> bool:
    """Whether it may be told a time: its number of models was not asked for."""
    try:
        dataclasses.replace(one, seconds=_LITTLE)  # type: ignore[call-arg]
    except BdbenchError:
        return False
    return True


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s"
    return str(timedelta(seconds=round(seconds)))
