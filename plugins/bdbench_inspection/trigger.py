"""The reverse engineering of Neural Cleanse: the smallest mask and pattern that send images to a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

# The authors' settings: where lambda starts, by what it grows and shrinks, after how many rounds of one kind, and after
# how many without a smaller mask the search ends, once lambda has done both.
_START, _UP, _DOWN, _PATIENCE, _ENOUGH = 1e-3, 2.0, 2.0**1.5, 5, 25
# The authors' most images of a round.
ROUND = 1000


@dataclass
class Penalty:
    """The weight of the mask's norm: 0 until the trigger works, then larger while it does and smaller while not."""

    weight: float = 0.0
    grown: bool = False
    shrunk: bool = False
    _works: int = 0
    _fails: int = 0

    def adapt(self, works: bool) -> None:
        """Take note of one round, in which the trigger worked or not."""
        self._works, self._fails = (self._works + 1, 0) if works else (0, self._fails + 1)
        if self._works >= _PATIENCE:
            self._works = 0
            self.grown |= self.weight > 0
            self.weight = self.weight * _UP or _START
        elif self._fails >= _PATIENCE:
            self._fails = 0
            self.shrunk |= self.weight > 0
            self.weight /= _DOWN


def reverse(
    model: nn.Module,
    images: np.ndarray,
    seeds: Sequence[int],
    device: str,
    label: int,
    *,
    rounds: int,
    lr: float,
    batch: int,
    success: float,
) -> dict[str, np.ndarray]:
    """The smallest trigger found for ``label``: "mask" float32 (H, W) and "pattern" (C, H, W), both in 0..1, and its
    "success" on all images.

    An image x becomes (1 - mask) x + mask pattern; mask and pattern are (tanh + 1) / 2 of what Adam moves, from uniform
    noise. A round is one pass over the images, uint8 (n, H, W, C), or over ``ROUND`` of them, in random batches; after
    each the trigger is tried on all of them: it works if at least ``success`` of them get the label, and of those that
    work the one with the smallest mask is kept (if none does, the last).
    """
    generator = torch.Generator().manual_seed(seeds[label])
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    target = torch.full((len(x),), label, device=device)
    shapes = (x.shape[2:], x.shape[1:])
    mask, pattern = (_free(torch.rand(s, generator=generator), device) for s in shapes)
    optimizer = torch.optim.Adam([mask, pattern], lr=lr, betas=(0.5, 0.9))
    penalty, best, stale = Penalty(), _shown(mask, pattern, 0.0), 0
    smallest = float("inf")
    for _ in range(rounds):
        for part in torch.randperm(len(x), generator=generator)[:ROUND].to(device).split(batch):
            m, p = _unit(mask), _unit(pattern)
            loss = cross_entropy(model((1 - m) * x[part] + m * p), target[part]) + penalty.weight * m.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rate, norm = _tried(model, x, mask, pattern, label), float(_unit(mask.detach()).sum())
        stale += 1
        if rate >= success and norm < smallest:
            smallest, stale = norm, 0
        if stale == 0 or smallest == float("inf"):
            best = _shown(mask, pattern, rate)
        if penalty.grown and penalty.shrunk and stale >= _ENOUGH:
            break
        penalty.adapt(rate >= success)
    return best


def _free(values: torch.Tensor, device: str) -> torch.Tensor:
    """What ``_unit`` makes ``values``, in 0..1, of."""
    return torch.atanh((2 * values - 1).clamp(-1 + 1e-6, 1 - 1e-6)).to(device).requires_grad_(True)


def _unit(free: torch.Tensor) -> torch.Tensor:
    return (free.tanh() + 1) / 2


def _shown(mask: torch.Tensor, pattern: torch.Tensor, rate: float) -> dict[str, np.ndarray]:
    made = {name: _unit(t.detach()).cpu().numpy() for name, t in (("mask", mask), ("pattern", pattern))}
    return {**made, "success": np.array(rate)}


def _tried(model: nn.Module, x: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor, label: int) -> float:
    with torch.inference_mode():
        m, p = _unit(mask), _unit(pattern)
        hits = [model((1 - m) * part + m * p).argmax(1) == label for part in x.split(1024)]
        return float(torch.cat(hits).float().mean())
