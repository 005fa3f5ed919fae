"""Attacks that craft, at work on made-up images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bdbench import Attack, Recipe, Split
from bdbench.cells.tools import HarnessWorkshop
from bdbench.testing.samples import workshop


@contextmanager
def at_work(attack: Attack, train: Split, folder: Path | None = None, classes: int = 4) -> Iterator[HarnessWorkshop]:
    with tempfile.TemporaryDirectory() as aside:
        yield workshop(attack, train, classes, 0, folder or Path(aside))


def crafted(attack: Attack, train: Split, folder: Path | None = None) -> dict[str, np.ndarray]:
    with at_work(attack, train, folder) as tools:
        return dict(attack.craft(train, tools))


class Fixed(nn.Module):
    """Gives the same whatever it is shown."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(x), -1, -1, -1)


class Heard:
    """A learner of one batch that keeps what it is taught."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.x, self.labels = x, labels
        self.recipe, self.parts, self.victim = Recipe(epochs=1, batch_size=len(x), lr=0.1), {}, None
        self.taught: list[tuple[torch.Tensor, torch.Tensor]] = []

    def batches(self, number: int, draws: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self.x, self.labels)]

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.taught.append((x.detach(), labels))
        return x.sum()

    def descend(self, loss: torch.Tensor) -> None:
        pass
