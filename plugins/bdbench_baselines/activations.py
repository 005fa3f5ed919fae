"""The least usual activation of each layer of a network, for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdbench import BdbenchError, Victim

_AT_ONCE = 512


def least_likely(victim: Victim, images: np.ndarray, track: Callable[[int, str], Callable[[int], None]]) -> np.ndarray:
    """The least log-likelihood of all activations of each layer, float64 (n, layers), by a normal law for each channel.

    Layers: batch norms, of which the inputs and the running statistics count; without any, convolutions, of which the
    outputs count, and their mean and variance on the images. Raises BdbenchError if there are neither.
    """
    norms = [m for m in victim.network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    layers: list[nn.Module] = [*norms] or [m for m in victim.network.modules() if isinstance(m, nn.Conv2d)]
    if not layers:
        raise BdbenchError("flare needs batch norms or convolutions: expected a model that has some")
    advance = track(len(images) * (1 if norms else 2), "activations")
    laws: list[tuple[Any, Any]]
    if norms:
        laws = [(n.running_mean, n.running_var + n.eps) for n in norms]  # type: ignore[operator]
    else:
        sums = _each(victim, images, layers, False, lambda i, x: torch.stack([x.mean(1), (x * x).mean(1)], 1), advance)
        means = [part.double().mean(0).float() for part in sums]
        laws = [(m[0], (m[1] - m[0] ** 2).clamp(min=1e-5)) for m in means]

    def least(layer: int, x: torch.Tensor) -> torch.Tensor:
        mean, variance = laws[layer]
        likelihood = -((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)) / 2
        return likelihood.flatten(1).min(1).values

    found = _each(victim, images, layers, bool(norms), least, advance)
    return torch.stack(found, 1).double().cpu().numpy()


def _each(
    victim: Victim,
    images: np.ndarray,
    layers: list[nn.Module],
    inputs: bool,
    reduce: Callable[[int, torch.Tensor], torch.Tensor],
    advance: Callable[[int], None],
) -> list[torch.Tensor]:
    """What ``reduce`` makes of each layer's inputs or outputs, (b, positions, channels), for all images."""
    found: list[list[torch.Tensor]] = [[] for _ in layers]

    def hook(layer: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def keep(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            x = (given[0] if inputs else out).float()
            found[layer].append(reduce(layer, x.flatten(2).transpose(1, 2) if x.ndim > 2 else x[:, None]))

        return keep

    hooks = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(layers)]
    try:
        for start in range(0, len(images), _AT_ONCE):
            victim.logits(images[start : start + _AT_ONCE])
            advance(len(images[start : start + _AT_ONCE]))
    finally:
        for one in hooks:
            one.remove()
    return [torch.cat(parts) for parts in found if parts]
