"""What a cell takes, told before any of it is trained: models, memory, and time by this machine's own pace."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from bdbench.cells.bench import laid_out
from bdbench.cells.scene import Scene, Setting
from bdbench.components import guard, params
from bdbench.components.defenses import Defense, Needs
from bdbench.components.interfaces import Architecture
from bdbench.host import memory
from bdbench.host.pace import clock
from bdbench.host.timeout import OutOfTime
from bdbench.networks.training import Trainer, seeded
from bdbench.progress import quiet
from bdbench.storage.record import BASES

# A weight is held with its gradient and its momentum.
_HELD = 3
# The share of what is told that trainings were seen to take at the least.
_SURELY = 0.85
# Seconds that a look at the pace is to take, at the least; ten times as long tells it of however few images.
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


def compares(defense: Defense, budget: float | Literal["auto"]) -> bool:
    """Whether what becomes of the model is compared with the reference; without a budget nothing is removed."""
    return BASES[defense.stage] == "reference" and (defense.stage != "training set" or budget != 0)


def needs(defense: Defense, examples: int, shape: tuple[int, int, int], classes: int) -> Needs:
    """What a defense, and those that it is made of, say that they need for so many examples of a shape (H, W, C).

    One works after another: the most memory, and the models of all, as far as they are told.
    """
    with guard.call(defense):
        told = [part.needs(examples, shape, classes) for part in params.whole(defense)]
    memories = [one.memory for one in told if one.memory is not None]
    models = [one.models for one in told if one.models is not None]
    return Needs(max(memories, default=None), sum(models) if models else None)


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
        yield f"time: about {total}, {pace}; what the attack crafts and what defenses do is not counted"
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
    compared = any(compares(d, setting.budget) for d in defenses)
    # The look at the pace trains, too.
    check_training(ground)
    with guard.call(setting.model):
        seconds = seconds_per_image(ground) * len(ground.images) * ground.trainer.recipe.epochs
    needs = tuple((defense.name, ground.needs(defense)) for defense in defenses)
    attack = setting.attack
    trainings = (not attack.trains) + compared + removes + (setting.floor and not attack.control)
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
    """Bytes that a training takes at its peak beyond what is there: weights, a copy of the set, and what layers keep
    of a batch for its gradient.

    0 where it is not known: not every network can be laid out without being made.
    """
    trainer = ground.trainer
    try:
        with guard.call(ground.model), seeded(0), torch.device("meta"):
            network = laid_out(trainer.build)
            kept = _kept(network, ground.images.shape[1:])
    except OutOfTime:
        raise
    except Exception:
        return 0
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    batch = min(trainer.recipe.batch_size, len(ground.images))
    halved = trainer.precision == "bfloat16" and trainer.recipe.reduced
    return _HELD * weights + batch * kept // (2 if halved else 1) + ground.images.nbytes


def _kept(network: torch.nn.Module, shape: Sequence[int]) -> int:
    """Bytes that are kept of an image from the way through the layers to the way back, each tensor counted once; and
    the gradient of the largest.
    """
    kept: dict[int, int] = {}
    held = []  # of what is let go of, another storage could have the number

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(storage := tensor.untyped_storage())
        kept[storage._cdata] = storage.nbytes()
        return tensor

    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    height, width, channels = shape
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Two, for layers that take statistics over a batch.
        network(torch.empty(2, channels, height, width))
    sizes = [size for storage, size in kept.items() if storage not in own]
    return (sum(sizes) + max(sizes, default=0)) // 2


def seconds_per_image(ground: Ground, least: int = _FEW) -> float:
    """What an image takes in training, by an epoch of ``least`` of them; of more if that is too fast to tell, and of
    fewer if these are slow enough.
    """
    trainer = replace(ground.trainer, track=quiet)
    recipe = replace(trainer.recipe, epochs=1)
    n = len(ground.images)

    def epoch(count: int) -> float:
        start = time.perf_counter()
        trainer.train(ground.images[:count], np.arange(count) % ground.classes, 0, recipe=recipe)
        return time.perf_counter() - start

    epoch(2)  # what libraries do when they are first used is no pace
    # Nor is the making of the network, which takes seconds for a large one.
    once, apart = (epoch(2), 2) if n > 2 else (0.0, 0)
    count = min(_FEW, n)
    while True:
        whole = epoch(count)
        seconds = whole - once
        told = _LOOK if count >= least else 10 * _LOOK
        if seconds >= told or count == n:
            # Of a few images beside a busy process, chance may have made two of them take longer: no pace is nothing.
            return seconds / (count - apart) if seconds > 0 else whole / count
        count = min(4 * count, n)
