"""How strongly the neurons of a network's features are connected, by the two rules of trojaning attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from bdbench import BdbenchError


def incoming(network: nn.Module, features: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The sum of the absolute weights into each feature, (d,), from the layer before it.

    features: computes those of one image, (d,). The weights are of the linear layer or convolution that runs last; a
    feature is one of its channels, or of what pooling leaves of one. Raises BdbenchError for features that are not.
    """
    ran: list[nn.Module] = []

    def note(layer: nn.Module, *_: Any) -> None:
        ran.append(layer)

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    count = len(features())
    for hook in hooks:
        hook.remove()
    if ran:
        weight = cast(torch.Tensor, ran[-1].weight).detach()
        each, rest = divmod(count, len(weight))
        if not rest and (each == 1 or not _reached(ran[-1], features)[each:].any()):
            return weight.abs().flatten(1).sum(1).repeat_interleave(each)
    raise BdbenchError(
        "attack 'trojan-patch': neuron=incoming needs a model whose features are the channels of the layer that runs "
        "last before them: expected another model, or neuron=outgoing"
    )


def _reached(layer: nn.Module, features: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Which features the first channel of a layer reaches, bool (d,)."""
    before, reached = features(), []
    for much in (-1e3, 1e3):  # one of them passes a rectifier

        def add(layer: nn.Module, given: Any, made: torch.Tensor, much: float = much) -> torch.Tensor:
            made = made.clone()
            made[:, 0] += much
            return made

        with layer.register_forward_hook(add):
            reached.append(features() != before)
    return reached[0] | reached[1]


def outgoing(network: nn.Module, count: int) -> torch.Tensor:
    """The sum of the absolute weights from each of ``count`` features into the logits, (count,).

    Raises BdbenchError for a network in which no linear layer takes the features.
    """
    for layer in reversed(list(network.modules())):
        if isinstance(layer, nn.Linear) and layer.in_features == count:
            return layer.weight.detach().abs().sum(0)
    raise BdbenchError(
        "attack 'trojan-patch': neuron=outgoing needs a model with a linear layer after its features: expected "
        "another model, or pattern=fixed"
    )
