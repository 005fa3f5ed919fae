"""Networks of other libraries, fitted to grey and small images, with their last linear layer apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchvision.models import VGG

from bdbench import BdbenchError


class Headed(nn.Module):
    """A network in two: ``body``, which ends in the features (b, d), and ``linear``, which makes logits of them."""

    def __init__(self, body: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.body, self.linear = body, linear

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, d), what enters the last linear layer."""
        return self.body(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, num_classes)."""
        return self.linear(self.features(x))


def fitted(
    title: str, make: Callable[[], nn.Module], shape: tuple[int, int, int], num_classes: int, small: bool
) -> Headed:
    """What ``make`` makes, for images of ``shape`` (H, W, C), and where ``small`` changed as the components' help says.

    Raises BdbenchError, in which the network is called ``title``, if it does not take them, or has no linear head.
    """
    with _taking(title, shape):
        network = make()
    if small:
        _for_small(network, num_classes)
    _take_channels(network, shape[2])
    network.eval()
    # Not drawn at random, which would change the weights of the next network.
    x = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2]).view(1, shape[2], *shape[:2])
    name, head = _head(title, network, num_classes)
    said: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, given, logits: said.append(logits))
    with _taking(title, shape), torch.inference_mode():
        logits = network(x)
    hook.remove()
    if len(said) != 1 or not isinstance(logits, torch.Tensor) or not _same(said[0], logits):
        raise _no_head(title)
    _replace(network, name, nn.Identity())
    return Headed(network, head).train()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they are equal; of a network that is laid out without numbers, whether they have one shape."""
    return one.shape == other.shape and (one.is_meta or torch.equal(one, other))


@contextmanager
def _taking(title: str, shape: tuple[int, int, int]) -> Iterator[None]:
    """Where another library says, by whatever exception, that it does not take images of ``shape``."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        size = " x ".join(map(str, shape))
        raise BdbenchError(f"model {title!r} cannot take images of {size}: {reason}") from None


def _head(title: str, network: nn.Module, num_classes: int) -> tuple[str, nn.Linear]:
    linears = [found for found in _found(network, nn.Linear) if found[1].out_features == num_classes]
    if not linears:
        raise _no_head(title)
    return linears[-1]


def _no_head(title: str) -> BdbenchError:
    return BdbenchError(f"model {title!r} does not end in one linear layer: expected a network that does")


def _for_small(network: nn.Module, num_classes: int) -> None:
    """Nothing is thrown away before the first features, and a map of one pixel can be pooled."""
    (name, first), *others = _found(network, nn.Conv2d, nn.MaxPool2d)
    # A convolution whose stride is its size cuts patches, and is no stem.
    if max(first.stride) > 1 and first.kernel_size != first.stride:
        bias = first.bias is not None
        _replace(network, name, nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=bias))
        if others and isinstance(others[0][1], nn.MaxPool2d):
            _replace(network, others[0][0], nn.Identity())
    for _, pool in _found(network, nn.MaxPool2d):
        pool.ceil_mode = True
    if isinstance(network, VGG):
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Sequential(nn.Linear(512, num_classes))


def _take_channels(network: nn.Module, channels: int) -> None:
    name, first = _found(network, nn.Conv2d)[0]
    if first.in_channels != channels:
        same = {"stride": first.stride, "padding": first.padding, "bias": first.bias is not None}
        _replace(network, name, nn.Conv2d(channels, first.out_channels, first.kernel_size, **same))


def _found(network: nn.Module, *kinds: type[nn.Module]) -> list[tuple[str, Any]]:
    """Modules of some kinds with their names, in the order in which the network has them."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
