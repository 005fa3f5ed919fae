"""The victim, trained beside an attacker's other networks; batches, and rates that fall in steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdbench import Split, Victim, Workshop
from bdbench_triggers.crafting import augment, pixels

Part = nn.Module | torch.optim.Optimizer


def shuffled(count: int, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Indices of the batches of an epoch; no last one of one example, which has no statistics."""
    return [index for index in torch.randperm(count, generator=generator).split(min(size, count)) if len(index) > 1]


class Learner:
    """The victim, trained a step at a time by its own recipe, for an attacker who trains other networks beside it.

    The recipe's optimizer, learning rate, batches, augmentation and label smoothing, in float32. start: a victim to go
    on from; epochs: in place of the recipe's; parts: what a loop has to keep.
    """

    def __init__(
        self, tools: Workshop, train: Split, name: str, *, epochs: int | None = None, start: Victim | None = None
    ) -> None:
        self.recipe = recipe = replace(tools.recipe, epochs=epochs or tools.recipe.epochs, reduced=False)
        images = np.asarray(train.images)
        self.victim = tools.train(images, train.labels, name, start=start, recipe=replace(recipe, epochs=0))
        self.images = torch.from_numpy(np.array(images)).to(tools.device)
        self.labels = torch.from_numpy(np.array(train.labels)).to(tools.device)
        network = self.victim.network
        self._optimizer = recipe.optimizer_for(network)
        self.parts: dict[str, Part] = {"victim": network, "victim optimizer": self._optimizer}
        self.logits = self.victim.module()

    def batches(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of an epoch, x float (b, C, H, W) in 0..1, augmented, and labels; each at the recipe's learning rate."""
        self.logits.train()
        indices = shuffled(len(self.labels), self.recipe.batch_size, generator)
        for i, index in enumerate(indices):
            for group in self._optimizer.param_groups:
                group["lr"] = self.recipe.rate(epoch * len(indices) + i, self.recipe.epochs * len(indices))
            index = index.to(self.labels.device)
            yield augment(pixels(self.images[index]), self.recipe, generator), self.labels[index]

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The recipe's cross-entropy on x, float (b, C, H, W) in 0..1."""
        return F.cross_entropy(self.logits(x), labels, label_smoothing=self.recipe.label_smoothing)

    def descend(self, loss: torch.Tensor) -> None:
        """One step of the victim; gradients of other networks are added to theirs."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def stepped(done: float, at: tuple[float, ...]) -> float:
    """A learning rate's share after ``done`` of the way: divided by ten at each of ``at``."""
    return 0.1 ** sum(done >= step for step in at)
