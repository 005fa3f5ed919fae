"""Small sets, a small network, and what the harness hands over for them; nothing here is read from disk."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bdbench.cells.bench import Bench
from bdbench.cells.tools import HarnessTools, HarnessWorkshop
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture
from bdbench.components.workshop import Oracle
from bdbench.images.data import PoisonedData, Role, Split, TrainingView, fingerprint
from bdbench.networks.recipe import Recipe
from bdbench.networks.training import Victim
from bdbench.progress import Silent
from bdbench.seeds import Streams
from bdbench.storage.store import Store

Shape = tuple[int, int, int]
GREY, COLOUR = (8, 8, 1), (32, 32, 3)
CLASSES = 5
# Labels that have more than one example, and how many clean and triggered inputs there are at test time.
_COMMON, _INPUTS = 4, 16
# Of the sets that checks ask for again and again, by what they are made from; so many, then all are forgotten.
_VICTIMS: dict[str, Victim] = {}
_KEPT = 32


def lit(labels: np.ndarray, classes: int, shape: Shape, seed: int = 0) -> np.ndarray:
    """An image for each label: the class sets where the light is, whatever the seed; the rest is noise."""
    light = np.random.default_rng(0).integers(0, 128, (classes, *shape))
    noise = np.random.default_rng((seed, len(labels))).integers(0, 128, (len(labels), *shape))
    return (light[labels] + noise).astype(np.uint8)


def split(shape: Shape, classes: int, count: int, seed: int = 0) -> Split:
    """``count`` images, as many of each class, in random order."""
    labels = np.random.default_rng((seed, count)).permutation(np.arange(count) % classes)
    return Split(lit(labels, classes, shape, seed), labels)


def poisoned(shape: Shape, count: int, poison_class: int = 0) -> PoisonedData:
    """Four of the CLASSES, one of them with a single example; a tenth of the examples is POISON."""
    clean = split(shape, _COMMON, count)
    images, labels = np.array(clean.images), clean.labels.copy()
    labels[labels == 3] = 2
    labels[0] = 3
    original = labels.copy()
    chosen = np.flatnonzero(labels == (poison_class + 1) % 3)[: count // 10]
    images[chosen] = triggered(images[chosen])
    labels[chosen] = poison_class
    roles = np.zeros(count, np.int8)
    roles[chosen] = Role.POISON
    return PoisonedData(images, labels, roles, original)


def of_classes(shape: Shape, classes: int, each: int) -> PoisonedData:
    """``each`` examples of every one of ``classes``; a tenth of the second, at least one, is POISON of the first."""
    clean = split(shape, classes, classes * each)
    images, labels = np.array(clean.images), clean.labels.copy()
    chosen = np.flatnonzero(labels == 1)[: max(1, each // 10)]
    images[chosen], labels[chosen] = triggered(images[chosen]), 0
    roles = np.zeros(len(labels), np.int8)
    roles[chosen] = Role.POISON
    return PoisonedData(images, labels, roles, clean.labels.copy())


def triggered(images: np.ndarray) -> np.ndarray:
    """Copies of images (n, H, W, C) with the trigger of ``poisoned``: a white corner."""
    stamped = images.copy()
    stamped[:, -2:, -2:] = 255
    return stamped


class _Network(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3, stride=2)
        # What some defenses read, or prune.
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8 * 9, classes)
        self.pool = nn.AdaptiveMaxPool2d(3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(torch.relu(self.norm(self.convolution(x)))).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


@dataclass(frozen=True, kw_only=True)
class SampleNet(Architecture):
    """One convolution, normalised, and one linear layer, trained for a few steps."""

    name = "sample-net"

    def build(self, shape: Shape, num_classes: int) -> nn.Module:
        """The network."""
        return _Network(shape[2], num_classes)

    def default_recipe(self, dataset: str, shape: Shape) -> Recipe:
        """Three epochs."""
        return Recipe(epochs=3, batch_size=16, lr=0.01, optimizer="adamw")


def bench(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int, folder: Path) -> Bench:
    """Where components work on a set, with a SampleNet; stage results are kept below ``folder``."""
    height, width, channels = images.shape[1:]
    return Bench.of(
        SampleNet(),
        "",
        (height, width, channels),
        num_classes,
        contents=fingerprint(images, labels),
        seed=seed,
        device="cpu",
        precision="float32",
        store=Store(folder),
        progress=Silent(),
    )


def workshop(attack: Attack, train: Split, num_classes: int, seed: int, folder: Path) -> HarnessWorkshop:
    """What the harness hands to ``attack`` for a clean training set."""
    streams = Streams(seed)
    place = bench(np.asarray(train.images), train.labels, num_classes, seed, folder)
    own = {"attack": attack.config()}
    return HarnessWorkshop(attack.name, place, streams.child("attack"), streams.child("crafting"), own)


@dataclass(frozen=True)
class Handed:
    """What the harness hands to a defense.

    view: the poisoned training set; tools: with a victim and every oracle that the defense declares; images: uint8
    (m, H, W, C), inputs at test time, of which the second half has the trigger; reserve: the clean examples.
    """

    view: TrainingView
    tools: HarnessTools
    images: np.ndarray
    reserve: Split


@contextmanager
def handed_over(
    defense: Defense,
    data: PoisonedData,
    *,
    classes: int = CLASSES,
    reserve: int = 40,
    folder: Path | None = None,
    victim: Victim | None = None,
) -> Iterator[Handed]:
    """What the harness hands to ``defense`` for ``data`` of ``classes``.

    reserve: how many clean examples there are; folder: where pieces are kept (none: nowhere); victim: in place of one
    that is trained on the data.
    """
    view = data.view(classes)
    shape = (view.images.shape[1], view.images.shape[2], view.images.shape[3])
    common = _COMMON if classes == CLASSES else classes
    labels = np.arange(reserve) % common  # so that every prefix has as many of each
    clean = Split(lit(labels, common, shape, seed=1), labels)
    test = np.asarray(split(shape, _COMMON, _INPUTS, seed=2).images)
    known: dict[Oracle, Any] = {
        "poison_rate": float(np.mean(data.roles == Role.POISON)),
        "target_labels": (0,),
        "clean_set": clean,
        "poisons": data.roles == Role.POISON,
    }
    with tempfile.TemporaryDirectory() as aside:
        place = bench(view.images, view.labels, classes, 0, folder or Path(aside))
        tools = HarnessTools(
            defense.name,
            place,
            Streams(0),
            victim=victim or _victim(place, view),
            oracles={name: known[name] for name in defense.told if name in known},
            examples=len(view.labels),
        )
        yield Handed(view, tools, np.concatenate([test, triggered(test)]), clean)


def _victim(place: Bench, view: TrainingView) -> Victim:
    """One that is trained on a set: a copy, since a defense may change it."""
    key = place.made_from["made_from"]
    if key not in _VICTIMS:
        if len(_VICTIMS) >= _KEPT:
            _VICTIMS.clear()
        _VICTIMS[key] = place.trainer.train(view.images, view.labels, seed=0)
    return copy.deepcopy(_VICTIMS[key])
