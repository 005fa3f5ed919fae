"""One sifter of Meta-Sift: a model, and a network that weighs examples by their loss, trained against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from bdbench import Victim

# Dilution: turned by so much at most, in degrees, and shifted by so much of the image's side.
_TURN, _SHIFT = 25.0, 1 / 8
_DECAY, _BETAS = 0.05, (0.9, 0.95)


@dataclass(frozen=True)
class Sifter:
    """How one is trained: passes, batch, three rates, and through how many tensors the meta-gradient passes."""

    epochs: int
    batch: int
    lr: float
    virtual_lr: float
    weight_lr: float
    top: int


def weighed(
    start: Victim,
    images: np.ndarray,
    labels: np.ndarray,
    sifter: Sifter,
    seed: int,
    track: Callable[[int, str], Callable[[int], None]],
) -> np.ndarray:
    """The weight of each example, float32 (n,) in 0..1, by a sifter whose model goes on from ``start``."""
    device, model = start.device, start.module()
    y = torch.from_numpy(labels.copy()).to(device)
    parts = math.ceil(len(labels) / sifter.batch)
    advance = track(sifter.epochs * parts, "sift")
    # Dropout draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weigh = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 150), nn.ReLU(), nn.Linear(150, 1))
        # All weights are .5 at first, so that it is learnt, not drawn, whether a high loss is to weigh more or less.
        for parameter in weigh[-1].parameters():
            nn.init.zeros_(parameter)
        weigh = nn.Sequential(weigh, nn.Sigmoid(), nn.Flatten(0)).to(device)
        optimizers = (
            torch.optim.AdamW(model.parameters(), lr=sifter.lr, betas=_BETAS, weight_decay=_DECAY),
            torch.optim.SGD(weigh.parameters(), lr=sifter.weight_lr),
        )
        model.train()
        for _ in range(sifter.epochs):
            for index in torch.randperm(len(labels)).chunk(parts):
                step(model, weigh, optimizers, _pixels(images[index.numpy()], device), y[index], sifter)
                advance(1)
        model.eval()
        found = []
        with torch.no_grad():
            for index in torch.arange(len(labels)).split(1024):
                x = diluted(_pixels(images[index.numpy()], device))
                found.append(weigh(_losses(model(x), y[index])[:, None]).cpu())
    return torch.cat(found).numpy()


def step(
    model: nn.Module,
    weigh: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    x: torch.Tensor,
    y: torch.Tensor,
    sifter: Sifter,
) -> None:
    """One step of the network that weighs, through a virtual one of the model, and then one of the model."""
    losses = _losses(model(x), y)
    seen = losses.detach()[:, None]
    loss = (_shares(weigh(seen)) * losses).sum()
    given = dict(model.named_parameters())
    names = list(given)
    early, late = names[: -sifter.top], names[-sifter.top :]
    slopes = torch.autograd.grad(loss, [given[name] for name in late], create_graph=True)
    if early:
        slopes = (*torch.autograd.grad(loss, [given[name] for name in early], retain_graph=True), *slopes)
    virtual = {
        name: given[name].detach() - sifter.virtual_lr * slope for name, slope in zip(names, slopes, strict=True)
    }
    # Copies, so that the virtual pass leaves the running statistics as they are.
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    after = _losses(functional_call(model, {**virtual, **kept}, (x,)), y)
    rest = _shares(1 - weigh(after.detach()[:, None]))
    parameters = list(weigh.parameters())
    for parameter, slope in zip(
        parameters, torch.autograd.grad(-(rest * after).sum(), parameters, retain_graph=True), strict=True
    ):
        parameter.grad = slope
    optimizers[1].step()
    optimizers[0].zero_grad()
    (_shares(weigh(seen).detach()) * losses).sum().backward()
    optimizers[0].step()


def diluted(x: torch.Tensor) -> torch.Tensor:
    """Images (b, C, H, W), each turned and shifted at random; what comes in from outside is 0."""
    count = len(x)
    angle = torch.deg2rad((2 * torch.rand(count) - 1) * _TURN)
    # A side is 2 long.
    shift = (2 * torch.rand(count, 2) - 1) * 2 * _SHIFT
    cos, sin, stretch = angle.cos(), angle.sin(), x.shape[3] / x.shape[2]
    rows = [torch.stack([cos, -sin / stretch, shift[:, 0]], 1), torch.stack([sin * stretch, cos, shift[:, 1]], 1)]
    grid = affine_grid(torch.stack(rows, 1).to(x.device), list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)


def _pixels(images: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, labels, reduction="none")


def _shares(weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum()
    return weights / total if total >= 1e-4 else weights
