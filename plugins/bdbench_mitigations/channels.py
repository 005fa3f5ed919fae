"""The channels of a network: where they are, how they are scaled, and how they are pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bdbench import BdbenchError, Victim

Saw = Callable[[str, nn.Module, Any, Any], None]
"""What is told of a module that has run: its name, itself, its first input and its output."""


@dataclass(frozen=True)
class Layer:
    """A convolution and what normalises its output, if anything does at once. Their channels are the same.

    name: of the module in which its channels are scaled: the normalisation or, without one, the convolution.
    """

    name: str
    convolution: nn.Conv2d
    norm: nn.BatchNorm2d | None


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch normalisations of images that scale their channels, by name."""
    found = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return {n: m for n, m in found.items() if m.affine and m.running_var is not None}


def scaled(network: nn.Module) -> dict[str, nn.Module]:
    """The modules in which channels are scaled: all batch normalisations or, where there are none, all convolutions.

    Raises BdbenchError if there are neither.
    """
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    found: dict[str, nn.Module] = {**norms(network)} or {**convolutions}
    if not found:
        raise no_channels()
    return found


def layers(victim: Victim, shape: tuple[int, int, int]) -> list[Layer]:
    """The convolutions, in the order in which an image of ``shape`` (H, W, C) meets them, with what normalises them.

    Raises BdbenchError if there are none.
    """
    made: dict[int, tuple[str, nn.Conv2d, torch.Tensor]] = {}
    found: dict[str, Layer] = {}
    scaling = norms(victim.network)

    def saw(name: str, module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            # Kept with its output, so that no other tensor gets the same id.
            made[id(output)] = name, module, output
            found[name] = Layer(name, module, None)
        elif name in scaling and id(given) in made:
            source, convolution, _ = made[id(given)]
            found[source] = Layer(name, convolution, scaling[name])

    with torch.no_grad(), watched(victim.network, (nn.Conv2d, nn.BatchNorm2d), saw):
        victim.logits(np.zeros((2, *shape), np.uint8))
    if not found:
        raise no_channels()
    return list(found.values())


@contextmanager
def watched(network: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...], saw: Saw) -> Iterator[None]:
    """Within, ``saw`` is called with name, module, input and output of each module of some kinds, when it has run."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, output: saw(name, module, given[0] if given else None, output)

    handles = [m.register_forward_hook(hook(n)) for n, m in network.named_modules() if n and isinstance(m, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pruned(victim: Victim, chosen: Mapping[str, np.ndarray], *, biases: bool) -> Victim:
    """The victim without some channels, of the same architecture: their weights are 0.

    chosen: for modules by name, bool (channels,), those that go; biases: whether biases become 0 as well, so that a
    channel gives 0, or stay, as in the methods that mask weights.
    """
    network = copy.deepcopy(victim.network)
    for name, gone in chosen.items():
        module = network.get_submodule(name)
        parameters = (module.weight, module.bias) if biases else (module.weight,)
        with torch.no_grad():
            for parameter in parameters:
                if parameter is not None:
                    assert isinstance(parameter, nn.Parameter)
                    parameter[torch.from_numpy(gone).to(parameter.device)] = 0
    return victim.replace(network)


def outlying(values: np.ndarray, u: float) -> np.ndarray:
    """bool (n,): which values are above their mean by more than ``u`` standard deviations."""
    values = values.astype(np.float64)
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    # Where all are alike but for rounding, none stands out.
    return values > values.mean() + np.maximum(u * deviation, 1e-9 * np.abs(values).max(initial=0))


def no_channels() -> BdbenchError:
    """What there is to say of a network without convolutions."""
    return BdbenchError("the model has no convolution of images: expected one with channels to prune")
