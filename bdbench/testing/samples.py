"""Small sets, a small network and a sample record for the checks; nothing here is read from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bdbench import __version__
from bdbench.data import PoisonedData, Role, Split, TrainingView
from bdbench.interfaces import Architecture
from bdbench.progress import Silent, quiet
from bdbench.recipe import Recipe
from bdbench.record import Cost, Derived, Detection, Performance, Record
from bdbench.seeds import Streams
from bdbench.store import Store
from bdbench.tools import HarnessTools
from bdbench.training import Trainer

GREY, COLOUR = (8, 8, 1), (32, 32, 3)
CLASSES = 5


def split(shape: tuple[int, int, int], classes: int, count: int) -> Split:
    """``count`` images with as many labels of each class: the class sets where the light is, the rest is noise."""
    rng = np.random.default_rng(count)
    labels = rng.permutation(np.arange(count) % classes)
    light = rng.integers(0, 128, (classes, *shape))
    return Split((light[labels] + rng.integers(0, 128, (count, *shape))).astype(np.uint8), labels)


def poisoned(shape: tuple[int, int, int], count: int, poison_class: int = 0) -> PoisonedData:
    """Four of the CLASSES, one of them with a single example; a tenth of the examples is POISON."""
    clean = split(shape, 4, count)
    images, labels = np.array(clean.images), clean.labels.copy()
    labels[labels == 3] = 2
    labels[0] = 3
    original = labels.copy()
    chosen = np.flatnonzero(labels == (poison_class + 1) % 3)[: count // 10]
    images[chosen, -2:, -2:] = 255
    labels[chosen] = poison_class
    roles = np.zeros(count, np.int8)
    roles[chosen] = Role.POISON
    return PoisonedData(images, labels, roles, original)


class _Network(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3, stride=2)
        self.linear = nn.Linear(8 * 9, classes)
        self.pool = nn.AdaptiveMaxPool2d(3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(torch.relu(self.convolution(x))).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


@dataclass(frozen=True, kw_only=True)
class SampleNet(Architecture):
    """One convolution and one linear layer, trained for a few steps."""

    name = "sample-net"

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network."""
        return _Network(shape[2], num_classes)

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """Three epochs."""
        return Recipe(epochs=3, batch_size=16, lr=0.01, optimizer="adamw")


@contextmanager
def handed_over(defense: Defense, data: PoisonedData, seed: int = 0) -> Iterator[tuple[TrainingView, Tools]]:
    """What the harness hands to ``defense`` for ``data``; stage results are kept nowhere."""
    view = data.view(CLASSES)
    model, shape = SampleNet(), view.images.shape[1:]
    trainer = Trainer(lambda: model.build(shape, CLASSES), model.recipe("", shape), "cpu", quiet)
    known = {"poison_rate": float(np.mean(data.roles == Role.POISON)), "target_label": 0}
    with tempfile.TemporaryDirectory() as folder:
        yield (
            view,
            HarnessTools(
                defense=defense.name,
                victim=trainer.train(view.images, view.labels, seed=0),
                streams=Streams(seed),
                store=Store(Path(folder)),
                made_from="",
                trainer=trainer,
                oracles={name: known[name] for name in defense.oracles},
                progress=Silent(),
            ),
        )


def record(detection: bool) -> Record:
    """A valid record of a run that never was; without ``detection`` it is a mitigation's, on a clean set."""
    none = None if not detection else 0.0
    performance = Performance(0.9, none, none)
    components = {kind: {"name": f"sample-{kind}"} for kind in ("dataset", "model", "attack", "defense")}
    facts = {"train": 60, "test": 20, "classes": 4, "shape": [8, 8, 1], "fingerprint": "", "poisons": 6 * detection}
    return Record(
        id=f"conformance-{'detector' if detection else 'mitigation'}-s0-00000000",
        seed=0,
        config={**components, "budget": 0.1, "recipe": {"epochs": 1}, "data": facts},
        oracles=[],
        environment={"versions": {"bdbench": __version__}, "device": "cpu", "threads": 1, "commit": None},
        before=performance,
        detection=Detection(0.9, 0.8, 0.1, 0.7, 0.05, 0.6, None) if detection else None,
        after=performance,
        derived=Derived(none),
        cost=Cost({"victim": 1.5}, 1, 100.0),
    )
