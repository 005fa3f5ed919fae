"""Gradient matching: images are moved so that training on them moves a network as other images would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import Recipe, State
from bdbench_triggers.crafting import augment, moments, resume

# When the step size falls to a tenth, in eighths of all steps.
_FALLS = (3, 5, 7)

Gradient = tuple[torch.Tensor, ...]


def gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, graph: bool = False) -> Gradient:
    """The mean cross-entropy's gradient by the parameters; graph: can itself be differentiated."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(cross_entropy(model(x), labels), parameters, create_graph=graph)


def mean_gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, batch: int) -> Gradient:
    """The same over many images, ``batch`` at a time."""
    total: Sequence[torch.Tensor] = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
    for part in torch.arange(len(x)).split(batch):
        found = gradient(model, x[part], labels[part])
        total = [t + g * (len(part) / len(x)) for t, g in zip(total, found, strict=True)]
    return tuple(total)


def norms(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, advance: Callable[[int], None]) -> np.ndarray:
    """The length of each image's own gradient, float64 (n,)."""
    found = []
    for i in range(len(x)):
        squares = [g.square().sum() for g in gradient(model, x[i : i + 1], labels[i : i + 1])]
        found.append(float(torch.stack(squares).sum().sqrt()))
        advance(1)
    return np.array(found)


def apart(one: Gradient, other: Gradient) -> torch.Tensor:
    """1 - the cosine between two gradients, over all parameters together."""
    inner = torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
    lengths = [torch.stack([g.square().sum() for g in gradients]).sum().sqrt() for gradients in (one, other)]
    return 1 - inner / (lengths[0] * lengths[1])


def match(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    wanted: Gradient,
    state: State,
    *,
    eps: float,
    unit: torch.Tensor,
    steps: range,
    total: int,
    lr: float,
    batch: int,
    recipe: Recipe,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> State:
    """Move x, (n, C, H, W) in 0..1, so that the gradient of each batch points along ``wanted``.

    Adam on the gradient's signs (Geiping et al. 2021), on "change" (n, C, H, W) of the state, in units of ``unit``
    (C, 1, 1), which is kept within ``eps`` per pixel and x + change in 0..1; augmented as the recipe has it. steps: of
    ``total``, which are done; lr: a step's length at the start. Returns the state after them, with "loss", the
    last step's mean of ``apart``.
    """
    change = torch.from_numpy(np.array(state["change"])).to(x.device)
    optimizer = torch.optim.Adam([change])
    resume(optimizer, change, state)
    loss = 0.0
    for step in steps:
        optimizer.param_groups[0]["lr"] = lr * 0.1 ** sum(step >= total * fall // 8 for fall in _FALLS)
        parts = torch.arange(len(x)).split(batch)
        signs, losses = [], []
        for part in parts:
            moving = change[part].requires_grad_(True)
            seen = augment(x[part] + unit * moving, recipe, generator)
            value = apart(gradient(model, seen, labels[part], graph=True), wanted)
            signs.append(torch.autograd.grad(value, moving)[0].sign())
            losses.append(float(value.detach()))
        change.grad = torch.cat(signs)
        optimizer.step()
        change = _projected(change, x, eps, unit)
        loss = float(np.mean(losses))
        advance(1)
    return {"change": change.cpu().numpy(), "loss": np.array(loss), **moments(optimizer, change)}


def _projected(change: torch.Tensor, x: torch.Tensor, eps: float, unit: torch.Tensor) -> torch.Tensor:
    """The same tensor, which the optimiser knows, moved into the bound and the box."""
    inside = (x + (unit * change).clamp(-eps, eps)).clamp(0, 1) - x
    return change.copy_(inside / unit)
