"""Gram matrices of feature maps, of several orders, and how far they are from those of clean examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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

    The last stage is the last part of the network, whole stages before what they consist of, that makes more channels
    than it is given; without one, it is what comes out of the first convolution. Raises BdbenchError where there is no
    convolution.
    """
    convolutions = [module for module in victim.network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise BdbenchError("beatrix needs a model with convolutions: expected another model")
    first, *later = convolutions
    stage = _last_widening(victim, images[:1], first, set(later))
    seen: list[torch.Tensor] = []

    def see(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        seen.append((given[0] if stage else made).float().flatten(2))

    with _watching([stage or first], see):
        victim.features(images)
    return torch.cat(seen)


def _last_widening(victim: Victim, images: np.ndarray, first: nn.Module, later: Set[nn.Module]) -> nn.Module | None:
    """The last stage, if there is one. A part that holds the first convolution begins with the image: it is none."""
    wide: list[nn.Module] = []

    def see(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        ends = [*given[:1], made]
        if all(torch.is_tensor(x) and x.ndim == 4 for x in ends) and made.shape[1] > given[0].shape[1]:
            wide.append(module)

    held = {module: set(module.modules()) for module in victim.network.modules()}
    parts = [module for module, own in held.items() if first not in own and own & later]
    with _watching(parts, see):
        victim.features(images)
    within = {part for module in wide for part in held[module] - {module}}
    # In the order in which they end.
    return next((module for module in reversed(wide) if module not in within), None)


@contextmanager
def _watching(modules: list[nn.Module], see: Callable[..., None]) -> Iterator[None]:
    hooks = [module.register_forward_hook(see) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
