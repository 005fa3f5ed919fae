"""Gram matrices of feature maps, of several orders, and how far they are from those of clean examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bdbench import BdbenchError

if TYPE_CHECKING:
    from bdbench import Victim

# The authors' settings: the orders, the deviations that are still usual, and what keeps a bound of 0 from dividing.
ORDERS, _USUAL, _TINY = range(1, 9), 10.0, 1e-6
_AT_ONCE = 64


def maps(victim: Victim, images: np.ndarray) -> torch.Tensor:
    """What enters the network's last stage for uint8 (b, H, W, C): float32 (b, channels, positions), on its device.

    The last stage begins with the last convolution that has more channels than it is given. If that is the network's
    first, it is what comes out of it. Raises BdbenchError where there is no convolution.
    """
    convolutions = [module for module in victim.network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise BdbenchError("beatrix needs a model with convolutions: expected another model")
    widening = [one for one in convolutions if one.out_channels > one.in_channels] or convolutions
    last, seen = widening[-1], []

    def see(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        seen.append((made if last is convolutions[0] else given[0]).float().flatten(2))

    hook = last.register_forward_hook(see)
    try:
        victim.features(images)
    finally:
        hook.remove()
    return torch.cat(seen)


def grams(seen: torch.Tensor, order: int) -> torch.Tensor:
    """The upper triangle of (F^p F^p')^(1/p), float32 (b, c (c + 1) / 2), of maps F (b, c, positions) and order p."""
    powers = seen**order
    rows, columns = torch.triu_indices(*powers.shape[1:2] * 2, device=seen.device)
    products = (powers @ powers.transpose(1, 2))[:, rows, columns]
    return products.sign() * products.abs() ** (1 / order)


class Usual:
    """What is usual of the Gram matrices of some clean maps (m, c, positions): medians and deviations by order."""

    def __init__(self, clean: torch.Tensor) -> None:
        # The deviations are relative, so that the scale does not matter but for overflow.
        self._scale = clean.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        self._bounds = []
        for order in ORDERS:
            values = grams(clean / self._scale, order)
            middle = values.median(0).values
            spread = (values - middle).abs().median(0).values
            self._bounds.append((middle - _USUAL * spread, middle + _USUAL * spread))

    def deviations(self, seen: torch.Tensor) -> np.ndarray:
        """How far maps (b, c, positions) are beyond what is usual, float64 (b,): mean over entries and orders."""
        return np.concatenate([self._deviations(part / self._scale) for part in seen.split(_AT_ONCE)])

    def _deviations(self, seen: torch.Tensor) -> np.ndarray:
        total = torch.zeros(len(seen), dtype=torch.float64, device=seen.device)
        for order, (low, high) in zip(ORDERS, self._bounds, strict=True):
            values = grams(seen, order)
            below, above = (low - values).relu_(), (values - high).relu_()
            total += (below / (low + _TINY).abs() + above / (high + _TINY).abs()).sum(1, dtype=torch.float64)
        return (total / (seen.shape[1] ** 2 / 2 * len(ORDERS))).cpu().numpy()
