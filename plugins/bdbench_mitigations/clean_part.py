"""What repairs do with clean examples: hold some out, draw batches, train, and prune as far as accuracy allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Loss, Recipe, Split, Tools

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


def halves(clean: Split, held: float) -> tuple[Split, Split]:
    """Clean examples in two: those to fit to, and the ``held`` share to measure with; both all of them if there is one.

    Prefixes of clean examples are stratified, so that both parts nearly are.
    """
    n = len(clean.labels)
    if n < 2:
        return clean, clean
    cut = n - min(max(1, round(held * n)), n - 1)
    images = np.asarray(clean.images)
    return Split(images[:cut], clean.labels[:cut]), Split(images[cut:], clean.labels[cut:])


def accuracy(victim: Victim, clean: Split) -> float:
    """The share of examples that a model gets right."""
    return float((victim.predict(np.asarray(clean.images)) == clean.labels).mean())


def furthest(steps: Sequence[Callable[[], Victim]], start: Victim, held: Split, tolerance: float) -> Victim:
    """The last of ever stronger prunings before the first that costs more than ``tolerance`` of accuracy on ``held``.

    start: the model unpruned, what is left if already the first costs more.
    """
    least = accuracy(start, held) - tolerance
    best = start
    for make in steps:
        found = make()
        # A tolerance of k examples allows k, whatever rounding makes of it.
        if accuracy(found, held) < least - 1e-9:
            break
        best = found
    return best


def tuned(tools: Tools, clean: Split, name: str, start: Victim, recipe: Recipe, loss: Loss | None = None) -> Victim:
    """``start``, trained on clean examples. loss: in place of cross-entropy, known by ``start`` and ``name``."""
    images = np.asarray(clean.images)
    kept = {"repair": name} if loss else None
    return tools.train(images, clean.labels, name, start=start, recipe=recipe, loss=loss, kept=kept)


def tuning(recipe: Recipe, epochs: int, lr: float) -> Recipe:
    """The recipe for ``epochs`` passes over clean examples; lr: peak learning rate / the recipe's."""
    return dataclasses.replace(recipe, epochs=epochs, lr=lr * recipe.lr)


def batches(
    clean: Split, size: int, steps: int, generator: torch.Generator, device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``steps`` batches: float (b, C, H, W), pixels in 0..1, and int64 (b,). Every pass is in another random order."""
    import torch

    x = torch.from_numpy(np.array(clean.images)).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.from_numpy(clean.labels.copy()).to(device)
    size = min(size, len(y))
    each = math.ceil(len(y) / size)
    order = torch.arange(len(y))
    for step in range(steps):
        if step % each == 0:
            order = torch.randperm(len(y), generator=generator)
        index = order[step % each * size :][:size]
        if len(index) == 1 and len(y) > 1:
            # Of one example there are no batch statistics.
            index = order[-2:]
        yield x[index.to(device)], y[index.to(device)]
