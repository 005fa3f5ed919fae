"""What a cell takes, told before any of it is trained: models, memory, and time by this machine's own pace."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bdbench import guard, memory
from bdbench.bench import laid_out
from bdbench.defenses import Defense, Needs
from bdbench.interfaces import Architecture
from bdbench.pace import clock
from bdbench.progress import quiet
from bdbench.record import BASES
from bdbench.scene import Scene, Setting
from bdbench.timeout import OutOfTime
from bdbench.training import Trainer, seeded

# Bytes of a number; a weight is held with its gradient and its momentum.
_FLOAT, _HELD = 4, 3
# Layers that work in place take less than is counted for them: below this share of it nothing was seen to do.
_SURELY = 0.7
# Seconds that a look at the pace is to take, at the least; it ends before it has taken ten times as long.
_LOOK = 0.1
_FEW = 16


@dataclass(frozen=True)
class Ground:
    """What is known of a cell before anything is trained. images: the training set, uint8 (n, H, W, C)."""

    model: Architecture
    trainer: Trainer
    images: np.ndarray
    classes: int

    @classmethod
    def of(cls, scene: Scene) -> Ground:
        """Of a scene, whose attack has crafted what it needs."""
        return cls(scene.setting.model, scene.bench.trainer, scene.view.images, scene.images.num_classes)

    def needs(self, defense: Defense, examples: int | None = None) -> Needs:
        """What a defense says that it needs, for so many examples of this kind (None: for all)."""
        height, width, channels = self.images.shape[1:]
        return needs(defense, examples or len(self.images), (height, width, channels), self.classes)


def needs(defense: Defense, examples: int, shape: tuple[int, int, int], classes: int) -> Needs:
    """What a defense says that it needs for so many examples of a shape (H, W, C)."""
    with guard.call(defense):
        return defense.needs(examples, shape, classes)


@dataclass(frozen=True)
class Forecast:
    """Of a cell. trainings: how many models of the victim's kind the harness trains; seconds, memory: of one, bytes;
    available: bytes that there are; needs: what each defense says that it needs beside, by its name.
    """

    trainings: int
    seconds: float
    memory: int
    available: int | None
    needs: tuple[tuple[str, Needs], ...]

    def lines(self) -> Iterator[str]:
        """The forecast for a person."""
        total = clock(self.trainings * self.seconds)
        yield f"models: {self.trainings} trainings of the victim's kind, as far as can be told before"
        pace = f"{self.seconds:.3g} s each at this machine's pace"
        yield f"time: about {total}, {pace}; what the attack crafts is not counted"
        there = "an unknown amount is" if self.available is None else f"{memory.shown(self.available)} are"
        known = f"{memory.shown(self.memory)} for a training" if self.memory else "not known for a training"
        yield f"memory: {known}; {there} free"
        for name, needs in self.needs:
            models = "not told" if needs.models is None else f"{needs.models} models"
            held = "not told" if needs.memory is None else memory.shown(needs.memory)
            yield f"defense {name}: its own models: {models}; its own memory: {held}"


def forecast(ground: Ground, setting: Setting, defenses: Sequence[Defense]) -> Forecast:
    """The pace is measured, in about a second; nothing is kept."""
    removes = sum(d.stage == "training set" and setting.budget != 0 for d in defenses)
    compared = any(BASES[d.stage] == "reference" for d in defenses)
    # The look at the pace trains, too.
    check_training(ground)
    with guard.call(setting.model):
        seconds = seconds_per_image(ground) * len(ground.images) * ground.trainer.recipe.epochs
    needs = tuple((defense.name, ground.needs(defense)) for defense in defenses)
    trainings = 1 + compared + removes + setting.floor
    return Forecast(trainings, seconds, of_training(ground), memory.available(), needs)


def check_training(ground: Ground) -> None:
    """Raise BdbenchError if a training of the victim's kind needs more memory than there is."""
    trainer = ground.trainer
    if torch.device(trainer.device).type == "cpu":
        what = f"training model {ground.model.name!r} in batches of {trainer.recipe.batch_size}"
        memory.check_memory(int(_SURELY * of_training(ground)), what, "a smaller batch_size, or smaller images")


def check_defense(ground: Ground, defense: Defense) -> None:
    """Raise BdbenchError if a defense says that it needs more memory than there is; it says what would fit."""
    examples = len(ground.images)

    def needed(count: int) -> int:
        return ground.needs(defense, count).memory or 0

    most = memory.most(needed, examples)
    if most < examples:
        fits = f"at most {most} examples (subset={most})" if most else "a machine with more"
        memory.check_memory(needed(examples), f"defense {defense.name!r} on {examples} examples", fits)


def of_training(ground: Ground) -> int:
    """Bytes that a training takes at its peak beyond what is there: weights, a copy of the set, and a batch's outputs.

    0 where it is not known: not every network can be laid out without being made.
    """
    trainer = ground.trainer
    try:
        with guard.call(ground.model), seeded(0), torch.device("meta"):
            network = laid_out(trainer.build)
            outputs = _outputs(network, ground.images.shape[1:])
    except OutOfTime:
        raise
    except Exception:
        return 0
    weights = sum(p.numel() for p in network.parameters())
    batch = min(trainer.recipe.batch_size, len(ground.images))
    return _FLOAT * (_HELD * weights + batch * outputs) + ground.images.nbytes


def _outputs(network: torch.nn.Module, shape: Sequence[int]) -> int:
    """How many numbers the layers give for one image."""
    found = [0]

    def count(module: torch.nn.Module, given: Any, made: Any) -> None:
        found[0] += made.numel() if isinstance(made, torch.Tensor) else 0

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    height, width, channels = shape
    # Two, for layers that take statistics over a batch.
    network(torch.empty(2, channels, height, width))
    return found[0] // 2


def seconds_per_image(ground: Ground, least: int = _FEW) -> float:
    """What an image takes in training, by an epoch of ``least`` of them, and of more if that is too fast to tell."""
    trainer = replace(ground.trainer, track=quiet)
    recipe = replace(trainer.recipe, epochs=1)
    count = min(least, len(ground.images))

    def epoch(count: int) -> float:
        start = time.perf_counter()
        trainer.train(ground.images[:count], np.arange(count) % ground.classes, 0, recipe=recipe)
        return time.perf_counter() - start

    epoch(2)  # what libraries do when they are first used is no pace
    while True:
        seconds = epoch(count)
        if seconds >= _LOOK or count == len(ground.images):
            return seconds / count
        count = min(4 * count, len(ground.images))
