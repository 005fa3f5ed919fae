"""Feature collision: images are moved, within a bound, to where other images are in a network's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from bdbench import Victim

Features = Callable[[torch.Tensor], torch.Tensor]
Pairing = Literal["one-to-one", "released"]


def features_of(victim: Victim) -> Features:
    """Float (b, C, H, W) in 0..1 -> the victim's penultimate representation, (b, d), differentiable."""
    network = victim.network.eval()
    mean, std = (torch.from_numpy(x).to(victim.device)[:, None, None] for x in (victim.mean, victim.std))
    return lambda x: network.features((x - mean) / std)  # type: ignore[operator]


def collide(
    features: Features,
    x: torch.Tensor,
    sources: torch.Tensor,
    *,
    eps: float,
    lr: Callable[[int], float],
    steps: int,
    pairing: Pairing,
    advance: Callable[[int], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images within ``eps`` of x, per pixel, and in 0..1, with features near those of the sources.

    x, sources: float (b, C, H, W) in 0..1, as many of both; lr: the step size at each step. Returns the images and,
    float (b,), the squared distance of each from the features of the source that it is paired with.
    """
    moved, wanted = x.clone(), features(sources).detach()
    for step in range(steps):
        moved.requires_grad_(True)
        found = features(moved)
        wanted = wanted[paired(wanted, found.detach(), pairing)]
        (gradient,) = torch.autograd.grad((wanted - found).square().sum(), moved)
        change = moved.detach() - lr(step) * gradient - x
        moved = (x + change.clamp(-eps, eps)).clamp(0, 1)
        advance(1)
    with torch.no_grad():
        return moved, (wanted - features(moved)).square().flatten(1).sum(1)


def paired(sources: torch.Tensor, found: torch.Tensor, pairing: Pairing) -> torch.Tensor:
    """For each of the found features (b, d) the row of the sources (b, d) that it is paired with, int64 (b,).

    one-to-one: the nearest pair of all, then the nearest of what is left, and so on (algorithm 1 of the paper). The
    released code, and ART's, takes the b nearest pairs out of all b * b without leaving anything out: a source may
    serve several images, the last of an image's pairs counts, and one without a pair keeps the source that it has.
    """
    distances = torch.cdist(sources, found).cpu().numpy()
    count = len(distances)
    rows = np.arange(count)
    if pairing == "released":
        nearest = np.argsort(distances, axis=None, kind="stable")[:count]
        rows[nearest % count] = nearest // count
    else:
        for _ in range(count):
            s, i = divmod(int(distances.argmin()), count)
            rows[i] = s
            distances[s] = distances[:, i] = np.inf
    return torch.from_numpy(rows).to(found.device)
