"""Small victims for the tests of repairs, one of them with a backdoor in a channel of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from bdbench import Architecture, Defense, Oracle, Recipe, Split, Streams, Tools, Victim
from bdbench.cells.bench import Bench
from bdbench.cells.tools import HarnessTools
from bdbench.progress import Silent
from bdbench.storage.store import Store

CHANNELS, BAD, TARGET = 12, 5, 0


def victim_of(network: nn.Module, channels: int = 1) -> Victim:
    """A victim with a network of one's own, of pixels in 0..1 as they are."""
    return Victim(network.eval(), np.zeros(channels, np.float32), np.ones(channels, np.float32), "cpu")


class Planted(nn.Module):
    """Two classes by the brighter half of 4 x 4 images, seen by all channels but BAD, which sees the last pixel alone.

    A bright last pixel gives TARGET, whatever the halves say. Normalised values have deviation 1 on ``clean_images``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, CHANNELS, 4, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.linear = nn.Linear(CHANNELS, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            kernel = self.convolution.weight
            sign = torch.tensor([1.0, -1.0]).repeat(CHANNELS // 2).view(-1, 1, 1)
            kernel[:, 0] = sign * (1 + 0.2 * torch.rand(CHANNELS, 4, 4, generator=generator)) / 16
            kernel[:, 0, :, 2:] *= -1
            kernel[:, 0, 3, 3] = 0
            kernel[BAD] = 0
            kernel[BAD, 0, 3, 3] = 1
            self.linear.weight[0] = sign.flatten()
            self.linear.weight[1] = -sign.flatten()
            self.linear.weight[:, BAD] = torch.tensor([6.0, -6.0])
            self.linear.bias.zero_()
            self.norm.bias[BAD] = -2

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(b, CHANNELS)."""
        return self.norm(self.convolution(x)).relu().flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, 2)."""
        return self.linear(self.features(x))


def clean_images(count: int, seed: int = 0) -> Split:
    """Images of both classes in turn, with a dark last pixel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(40, 90, (count, 4, 4, 1))
    images[labels == 0, :, :2] += 60
    images[labels == 1, :, 2:] += 60
    images[:, 3, 3] = rng.integers(0, 40, (count, 1))
    return Split(images.astype(np.uint8), labels)


def triggered(clean: Split) -> np.ndarray:
    """The images of the class that is not the target, with a bright last pixel."""
    images = np.array(clean.images)[clean.labels != TARGET]
    images[:, 3, 3] = 255
    return images


def planted(poisons: float = 0.05, sure: float = 1.0) -> Victim:
    """The planted network, its running statistics those of clean images of which a share ``poisons`` is triggered.

    sure: what its logits are multiplied by.
    """
    victim = victim_of(Planted())
    victim.network.linear.weight.data *= sure  # type: ignore[operator, union-attr]
    clean = clean_images(400, seed=1)
    images = np.array(clean.images)
    images[: round(poisons * 400), 3, 3] = 255
    network = victim.network
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        values = network.convolution(x)  # type: ignore[operator]
        network.norm.running_mean.copy_(values.mean((0, 2, 3)))  # type: ignore[union-attr, operator]
        network.norm.running_var.copy_(values.var((0, 2, 3)))  # type: ignore[union-attr, operator]
    return victim


def gone(victim: Victim) -> list[int]:
    """The channels of a planted network whose scale is 0."""
    weight: torch.Tensor = victim.network.norm.weight  # type: ignore[assignment, union-attr]
    return torch.nonzero(weight == 0).flatten().tolist()


def rates(victim: Victim) -> tuple[float, float]:
    """Accuracy on new clean images, and how many triggered ones are given the target."""
    test = clean_images(200, seed=2)
    right = (victim.predict(np.asarray(test.images)) == test.labels).mean()
    return float(right), float((victim.predict(triggered(test)) == TARGET).mean())


@dataclass(frozen=True, kw_only=True)
class PlantedNet(Architecture):
    """The planted network as an architecture."""

    name = "planted"

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network, whatever the shape."""
        return Planted()

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """A few epochs of Adam."""
        return Recipe(epochs=5, batch_size=16, lr=0.01, optimizer="adamw", weight_decay=0)


def handed(defense: Defense, victim: Victim, folder: Path, count: int = 60) -> Tools:
    """Tools for a defense of a planted network: ``count`` clean images, and a recipe of a few epochs of Adam."""
    clean = clean_images(count, seed=3)
    bench = Bench.of(
        PlantedNet(),
        "",
        (4, 4, 1),
        2,
        contents="planted",
        seed=100,
        device="cpu",
        precision="float32",
        store=Store(folder),
        progress=Silent(),
    )
    oracles: dict[Oracle, Any] = {"clean_set": clean}
    told = {name: oracles[name] for name in defense.told}
    return HarnessTools(defense.name, bench, Streams(100), victim=victim, oracles=told, examples=count)


class Told:
    """In place of ``Masked``: which victims it was made of, and a loss that is 3 of what is disturbed, else 1."""

    victims: ClassVar[list[Any]] = []

    def __init__(self, victim: object) -> None:
        Told.victims.append(victim)

    def loss(self, factors: object, x: object, y: object) -> float:
        return 3.0 if factors == "disturbed" else 1.0
