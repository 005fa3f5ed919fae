"""Poisons are sensitive: how far features move with the image, and who is taken for clean and for poisoned by it.

Chen, Wu and Wang, NeurIPS 2022, sec. 3 and 4.1.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from bdbench import Batch, Streams, Tools, TrainingView, Victim

_AT_ONCE = 1024


@dataclass(frozen=True)
class Split:
    """Who is taken for what: bool (n,) each, disjoint; the rest is uncertain."""

    clean: np.ndarray
    poisoned: np.ndarray


def sensitive(view: TrainingView, tools: Tools, early: int, spread: int, start: Victim | None = None) -> Victim:
    """A model that learnt the backdoor in ``early`` epochs, or ``start``, and then spread the classes' centres.

    The latter takes at least ``spread`` steps down the mean cosine of the centres of a batch's classes. Nothing is
    augmented.
    """
    plain = dataclasses.replace(tools.recipe, epochs=early, flip=False, crop_padding=0)
    first = start or tools.train(view.images, view.labels, "early", recipe=plain)
    if not spread:
        return first
    each = math.ceil(len(view.labels) / plain.batch_size)
    longer = dataclasses.replace(plain, epochs=math.ceil(spread / each))

    def loss(batch: Batch) -> torch.Tensor:
        return nearness(batch.network.features(batch.x), batch.labels)  # type: ignore[operator]

    return tools.train(view.images, view.labels, "spread", start=first, recipe=longer, loss=loss, kept={"spread": 1})


def nearness(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cosine of the centres of every two labels, of features (b, d); a label's with itself counts as 0."""
    member = F.one_hot(labels.unique(return_inverse=True)[1]).to(features)
    centres = F.normalize(member.T @ features / member.sum(0)[:, None], dim=1)
    return (centres @ centres.T).fill_diagonal_(0).mean()


def transformed(images: torch.Tensor, angles: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """float (b, C, H, W) turned by angles (b,), then moved by shifts (b, 2) of rows and columns, in pixels.

    Nearest neighbours; what comes in from outside is 0.
    """
    height, width = images.shape[2:]
    cos, sin, none, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    # Where each pixel comes from, as columns and rows in -1..1 of each side.
    turn = [cos, -sin * height / width, none, sin * width / height, cos, none]
    move = [one, none, -2 * shifts[:, 1] / width, none, one, -2 * shifts[:, 0] / height]
    for theta in (turn, move):
        grid = F.affine_grid(torch.stack(theta, 1).view(-1, 2, 3).to(images), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="nearest", align_corners=False)
    return images


def consistency(model: Victim, images: np.ndarray, streams: Streams) -> np.ndarray:
    """FCT: the mean squared difference of the features of each image, and of it turned and moved; float64 (n,).

    By up to 180 degrees, and whole pixels up to a fifth of each side, drawn for each. Higher: more sensitive.
    """
    chance, n = streams("transformations"), len(images)
    angles = torch.from_numpy(chance.uniform(-math.pi, math.pi, n))
    reach = 0.2 * np.array(images.shape[1:3])
    shifts = torch.from_numpy(np.rint(chance.uniform(-reach, reach, (n, 2))))
    scores = np.empty(n)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        x = torch.from_numpy(images[part].copy()).permute(0, 3, 1, 2).double()
        moved = transformed(x, angles[part], shifts[part]).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        before, after = (model.features(np.ascontiguousarray(i)).astype(np.float64) for i in (images[part], moved))
        scores[part] = ((before - after) ** 2).mean(1)
    return scores


def distinguished(scores: np.ndarray, clean: float, poisoned: float, streams: Streams) -> Split:
    """The ``clean`` share of lowest scores, and the ``poisoned`` one of highest; at least one each, ties by chance."""
    n = len(scores)
    order = np.lexsort((streams("ties").permutation(n), scores))
    few, many = (min(max(1, round(share * n)), n // 2) for share in (poisoned, clean))
    split = Split(np.zeros(n, bool), np.zeros(n, bool))
    split.clean[order[:many]] = True
    split.poisoned[order[n - few :]] = True
    return split


def told_apart(view: TrainingView, tools: Tools, early: int, spread: int, clean: float, poisoned: float) -> Split:
    """The split of a training set, by a model trained for it (``sensitive``)."""
    scores = consistency(sensitive(view, tools, early, spread), view.images, tools.streams)
    return distinguished(scores, clean, poisoned, tools.streams)
