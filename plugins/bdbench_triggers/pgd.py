"""Projected gradient descent away from a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

# No division by 0.
_TINY = 1e-12


def perturb(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    norm: Literal["l2", "linf"],
    eps: float,
    steps: int,
    step_size: float,
    advance: Callable[[int], None],
) -> torch.Tensor:
    """Images in the ball of radius ``eps`` around x, and in 0..1, on which the cross-entropy of ``labels`` is high.

    Madry et al. 2018, from x itself: a step along the gradient (l2: of length ``step_size``; linf: its sign
    times that), then into 0..1, then into the ball. x: float (b, C, H, W) in 0..1; model: gives logits (b, K); labels:
    int64 (b,); eps and step_size in units of x. ``advance`` is called with 1 for each step.
    """
    moved = x.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        # The sum: an image's gradient is then its own, whatever else is in the batch.
        (gradient,) = torch.autograd.grad(cross_entropy(model(moved), labels, reduction="sum"), moved)
        step = gradient.sign() if norm == "linf" else gradient / _length(gradient).clamp_min(_TINY)
        change = (moved.detach() + step_size * step).clamp(0, 1) - x
        # Both shrink each pixel's change, so that the image stays in 0..1.
        shrunk = change * (eps / _length(change).clamp_min(max(eps, _TINY)))
        moved = x + (change.clamp(-eps, eps) if norm == "linf" else shrunk)
        advance(1)
    return moved


def _length(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1)[:, None, None, None]
