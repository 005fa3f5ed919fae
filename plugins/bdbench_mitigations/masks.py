"""Masks of channels that are learnt with clean examples, and pruning by them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from bdbench import Split, Victim
from bdbench_mitigations.channels import norms, pruned, scaled
from bdbench_mitigations.clean_part import furthest

Factors = dict[str, torch.Tensor]
# The thresholds of the authors' sweeps.
_SWEEP = np.arange(0, 0.901, 0.05)


class Masked:
    """A network whose channels are scaled by factors: its own, a copy, is left as it is.

    It runs with the statistics of the batch, and without dropout, so that it draws nothing.
    """

    def __init__(self, victim: Victim) -> None:
        """Of a victim. Raises BdbenchError if it has no channels."""
        self.network = victim.replace(copy.deepcopy(victim.network)).module()
        self.network.requires_grad_(False)
        by_batch(self.network)
        self.modules = scaled(self.network)

    def factors(self, start: Callable[[torch.Size], torch.Tensor], *, biases: bool = False) -> Factors:
        """A factor for each channel, to be differentiated, for weights and, if asked for, biases; by parameter."""
        names = ("weight", "bias") if biases else ("weight",)
        found = {f"{n}.{kind}": getattr(module, kind) for n, module in self.modules.items() for kind in names}
        own = {name: p for name, p in found.items() if p is not None}
        return {n: start(p.shape[:1]).to(p.device).requires_grad_() for n, p in own.items()}

    def loss(self, factors: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of pixels (b, C, H, W) in 0..1 with parameters multiplied by factors."""
        return cross_entropy(self.logits(factors, x), y)

    def logits(self, factors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """(b, num_classes)."""
        own = dict(self.network.named_parameters())
        moved = {n: own[n] * f.view(-1, *[1] * (own[n].ndim - 1)) for n, f in factors.items()}
        logits: torch.Tensor = functional_call(self.network, moved, (x,))
        return logits


def by_batch(network: nn.Module) -> None:
    """Set a network to normalise by the statistics of the batch, and to do nothing else as in training."""
    network.eval()
    for module in norms(network).values():
        module.train()


def learnt(
    masked: Masked,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[Factors, torch.Tensor, torch.Tensor], torch.Tensor],
    lr: float,
    advance: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Masks in 0..1 that make a loss of them small, by SGD with momentum .9 from 1: float32 (channels,), by module."""
    masks = masked.factors(torch.ones)
    optimizer = torch.optim.SGD(masks.values(), lr=lr, momentum=0.9)
    for x, y in batches:
        value = loss(masks, x, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for mask in masks.values():
                mask.clamp_(0, 1)
        advance(1)
    prefix, suffix = "network.", ".weight"
    return {n.removeprefix(prefix).removesuffix(suffix): m.detach().cpu().numpy() for n, m in masks.items()}


def pruned_by(
    victim: Victim, masks: Mapping[str, np.ndarray], threshold: float, held: Split, tolerance: float | None
) -> Victim:
    """The victim without the weights of channels whose mask is at most a threshold; biases stay.

    tolerance: in place of ``threshold``, the last of 0, .05, .. .9 before the accuracy on ``held`` falls by more.
    """
    if tolerance is None:
        return _below(victim, masks, threshold)
    steps = [functools.partial(_below, victim, masks, float(t)) for t in _SWEEP]
    return furthest(steps, victim, held, tolerance)


def _below(victim: Victim, masks: Mapping[str, np.ndarray], threshold: float) -> Victim:
    return pruned(victim, {name: mask <= threshold for name, mask in masks.items()}, biases=False)
