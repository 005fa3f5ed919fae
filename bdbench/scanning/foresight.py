"""What a scan will take, told before it starts: memory by what components say, time by this machine's own pace.

The pace of a detector is that of two small parts of the set: what it takes for more images is taken from how much
longer it takes for the larger one. Where it can be told how long to work, it is told to train few models there, and
those that it would train are counted against them.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells import forecast
from bdbench.components import configs, guard
from bdbench.components.defenses import Detector, Needs
from bdbench.errors import BdbenchError
from bdbench.host import memory, pace
from bdbench.images.data import TrainingView
from bdbench.images.preparation import stratified
from bdbench.progress import Progress, Silent
from bdbench.scanning import detecting
from bdbench.scanning.laboratory import Laboratory

# Images of the parts if they have so many pixels, fewer of larger ones; and of each class at the least.
_PARTS, _PIXELS, _EACH = (150, 450), 64 * 64, 4
# Seconds that the smaller part takes if it is not looked at again, as what comes with the first use (compiling takes up
# to 20) is little of them; and if, once that is over, it tells enough by itself.
_ENDLESS, _SLOW = 60.0, 5.0
# Seconds that no model can be trained in: then a detector trains as few as it ever does.
_HASTE: dict[str, Any] = {"seconds": 0.01}
# Batches that a model is trained by for its pace, at the least.
_BATCHES = 2
# The share of images that is left in most sets once copies and what does not read are out.
_LEFT = 0.9


@dataclass(frozen=True)
class Expected:
    """Of one detector. models: None if it does not say; seconds: None if that could not be told; memory: bytes; looks:
    whether it looks into a model.
    """

    detector: Detector
    models: int | None
    seconds: float | None
    memory: int | None
    looks: bool

    def told(self) -> str:
        """It for a person."""
        if detecting.limit(self.detector) is not None:
            models = "as many small networks as the time allows, "
        else:
            models = "" if self.models is None else f"{self.models} small networks, "
        seconds = "time not told" if self.seconds is None else f"about {pace.shown(self.seconds)}"
        held = "" if self.memory is None else f", {memory.shown(self.memory)} of memory"
        return models + seconds + held


@dataclass(frozen=True)
class Foresight:
    """each: the seconds of a model of the harness's own; memory: bytes at the peak; available: bytes."""

    each: float
    memory: int
    available: int | None
    detectors: tuple[Expected, ...]

    @property
    def trainings(self) -> int:
        """How many models are trained beside those of detectors: one to look into, and one without what was found."""
        return 1 + any(one.looks for one in self.detectors)

    @property
    def seconds(self) -> float:
        """All of it, as far as it can be told."""
        return self.trainings * self.each + sum(one.seconds or 0 for one in self.detectors)

    def to_dict(self) -> dict[str, Any]:
        """For programs. models: those of the harness's own; memory and free in bytes; what is not known is null."""
        return {
            "seconds": round(self.seconds, 3),
            "models": self.trainings,
            "seconds_each": round(self.each, 3),
            "memory": self.memory,
            "free": self.available,
            "detectors": [
                {
                    "spec": configs.spec(one.detector.config()),
                    "models": one.models,
                    "seconds": None if one.seconds is None else round(one.seconds, 3),
                    "memory": one.memory,
                }
                for one in self.detectors
            ],
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        looked = "one to look into, and " if self.trainings > 1 else ""
        each = pace.shown(self.each)
        yield f"models to train: {looked}one without what was marked, if anything is; about {each} each"
        for one in self.detectors:
            yield f"detector {one.detector.name}: {one.told()}"
        there = "an unknown amount" if self.available is None else memory.shown(self.available)
        held = memory.shown(self.memory)
        yield f"in all: about {pace.shown(self.seconds)} at this machine's pace, {held} of memory; {there} free"


def check_fits(laboratory: Laboratory, detectors: Sequence[Detector]) -> None:
    """Raise BdbenchError for what needs more memory than there is; it says what would fit."""
    ground = _ground(laboratory)
    forecast.check_training(ground)
    count = len(laboratory.view.labels)
    for one in detectors:
        _check(one, count, count, functools.partial(ground.needs, one))


def check_sooner(detectors: Sequence[Detector], count: int, shape: tuple[int, int, int], num_classes: int) -> None:
    """The same before the images are read, which of hundreds of thousands takes minutes.

    Copies and what does not read may leave fewer, so that only what would not fit with a tenth less is refused.
    """
    for one in detectors:
        needs = functools.partial(forecast.needs, one, shape=shape, classes=num_classes)
        _check(one, count, max(1, round(_LEFT * count)), needs)


def _check(one: Detector, count: int, least: int, needs: Callable[[int], Needs]) -> None:
    """Raise BdbenchError, which is of ``count`` images, if not even the ``least`` that may be left of them fit."""

    def needed(examples: int) -> int:
        return needs(examples).memory or 0

    if memory.most(needed, least) < least:
        most = memory.most(needed, count)
        fits = f"--subset {most}, or a smaller --size" if most else "a smaller --size, or a machine with more"
        memory.check_memory(needed(count), f"defense {one.name!r} on {count} images", fits)


def foresee(laboratory: Laboratory, detectors: Sequence[Detector], device: str, progress: Progress) -> Foresight:
    """Measure the pace, in some seconds, unless it was measured before."""
    ground, bench = _ground(laboratory), laboratory.bench

    def measured() -> tuple[Mapping[str, np.ndarray], float]:
        start = time.perf_counter()
        advance = progress.track(1 + len(detectors), "measure the pace")
        with guard.call(bench.architecture):
            each = (
                forecast.seconds_per_image(ground, _BATCHES * ground.trainer.recipe.batch_size)
                * len(ground.images)
                * ground.trainer.recipe.epochs
            )
        advance(1)
        told = []
        for one in detectors:
            told.append(_tried(laboratory, one, device))
            advance(1)
        return {"each": np.array(each), "told": np.array(told)}, time.perf_counter() - start

    config = {"stage": "pace", **bench.made_from, "model": bench.architecture.config()}
    told = bench.store.stage({**config, "detectors": [one.config() for one in detectors]}, measured).arrays
    expected = []
    for one, (seconds, looks) in zip(detectors, told["told"].tolist(), strict=True):
        needs = ground.needs(one)
        known = None if np.isnan(seconds) else seconds
        expected.append(Expected(one, needs.models, known, needs.memory, bool(looks)))
    most = max(forecast.of_training(ground), *(one.memory or 0 for one in expected), 0)
    held = laboratory.view.images.nbytes + most
    return Foresight(float(told["each"]), held, memory.available(), tuple(expected))


def _ground(laboratory: Laboratory) -> forecast.Ground:
    bench, view = laboratory.bench, laboratory.view
    return forecast.Ground(bench.architecture, bench.trainer, view.images, view.num_classes)


def _tried(laboratory: Laboratory, one: Detector, device: str) -> tuple[float, bool]:
    """The seconds that a detector will take, NaN if it fails on a small part; and whether it looks into a model."""
    view = laboratory.view
    n, least = len(view.labels), _EACH * view.num_classes
    height, width = view.images.shape[1:3]
    share = min(1.0, _PIXELS / (height * width))
    low, high = (min(n, max(round(share * size), least * size // _PARTS[0])) for size in _PARTS)
    hasty = _hasty(one) if detecting.can_be_told(one) else one
    try:
        few, models, looks = _let_at(laboratory, hasty, low, device)
        if few < _ENDLESS:
            few, models, looks = _let_at(laboratory, hasty, low, device)
        if few < _SLOW:
            more = _let_at(laboratory, hasty, high, device)[0]
        else:
            low, high, few, more = 0, low, 0.0, few
    except Exception:
        return float("nan"), True  # said, if it happens again, when its turn comes
    if (limit := detecting.limit(one)) is not None:
        # As few as it ever trains may take longer than it was given.
        return max(limit, few + (more - few) / (high - low) * (n - low) if high > low else few), looks
    shape = (view.images.shape[1], view.images.shape[2], view.images.shape[3])
    whole = one.needs(n, shape, view.num_classes).models
    share = whole / models if hasty is not one and whole and models else 1.0
    slope = (more - few) / (high - low) if high > low and more > few else more / high
    return few + slope * (n * share - low), looks


def _let_at(laboratory: Laboratory, one: Detector, size: int, device: str) -> tuple[float, int, bool]:
    """Seconds, models trained, and whether it looked into one, of a detector on so many of the images."""
    view = laboratory.view
    n = len(view.labels)
    rows = np.arange(n)
    if size < n:
        few = [np.flatnonzero(view.labels == label)[:_EACH] for label in range(view.num_classes)]
        rows = np.union1d(stratified(view.labels, size, laboratory.streams("pace")), np.concatenate(few))
    part = TrainingView(guard.read_only(view.images[rows]), guard.read_only(view.labels[rows]), view.num_classes)
    with tempfile.TemporaryDirectory() as aside:
        small = Laboratory.on(part, laboratory.bench.architecture, laboratory.streams, device, Path(aside), Silent())
        trainer = small.bench.trainer
        quick = replace(trainer, recipe=replace(trainer.recipe, epochs=1))
        tools = replace(small, bench=replace(small.bench, trainer=quick)).tools(one)
        start = time.perf_counter()
        with guard.call(one):
            one.score(part, tools)
        return time.perf_counter() - start, tools.models_trained, tools.looked_into


def _hasty(one: Detector) -> Detector:
    """The same with as few models as it ever trains, however many were asked for; itself if it cannot be told so."""
    usual = {field.name: field.default for field in fields(one) if field.name == "models"}
    for asked in ({}, usual):
        with contextlib.suppress(BdbenchError):
            return replace(one, **_HASTE, **asked)
    return one
