"""Networks that make triggers, their weights as a part of what was crafted, and images sent through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdbench import State, Workshop
from bdbench_triggers.crafting import to_bytes, to_floats
from bdbench_triggers.trained import named, part

Network = TypeVar("Network", bound=nn.Module)

_BATCH = 256


class Generator(nn.Module):
    """(b, inputs, H, W) -> (b, outputs, H, W), of any size: down ``depth`` times by pooling, and up by interpolation.

    Each level has two 3 x 3 convolutions with batch norm and ReLU, ``width`` channels at the top and twice as many at
    each level below; the last one is linear, with batch norm if ``bounded``. skips: what went down is passed across to
    what comes up, as in a U-Net.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, depth: int, *, skips: bool = False, bounded: bool = False
    ) -> None:
        super().__init__()
        self._skips = skips
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        widths, current = [width << level for level in range(depth)], inputs
        for wide in widths:
            self.down.append(nn.Sequential(*_convolution(current, wide), *_convolution(wide, wide)))
            current = wide
        self.middle = nn.Sequential(*_convolution(current, current))
        for wide, after in zip(widths[::-1], [*widths[-2::-1], outputs], strict=True):
            last = _convolution(wide, after)
            if len(self.up) == depth - 1:
                last = last[: 2 if bounded else 1]
            self.up.append(nn.Sequential(*_convolution(current + wide * skips, wide), *last))
            current = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What comes out is not squashed."""
        passed = []
        for level in self.down:
            passed.append(level(x))
            x = F.max_pool2d(passed[-1], 2)
        x = self.middle(x)
        for level, beside in zip(self.up, reversed(passed), strict=True):
            x = F.interpolate(x, size=beside.shape[2:], mode="bilinear", align_corners=False)
            x = level(torch.cat([x, beside], 1) if self._skips else x)
        return x


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def weights(network: nn.Module, name: str) -> dict[str, np.ndarray]:
    """A network as the part ``name`` of a crafted state."""
    return named({key: tensor.detach().cpu().numpy() for key, tensor in network.state_dict().items()}, name)


def with_weights(network: Network, state: State, name: str, device: str) -> Network:
    """The network with what ``weights`` kept, ready to be used."""
    network.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in part(state, name).items()})
    return network.to(device).eval()


def changed(change: Callable[..., torch.Tensor], device: str, *images: np.ndarray) -> np.ndarray:
    """What ``change`` makes of arrays uint8 (n, H, W, C), of which it gets batches as float (b, C, H, W) in 0..1."""
    made = [np.empty_like(images[0][:0])]
    with torch.inference_mode():
        for start in range(0, len(images[0]), _BATCH):
            x = change(*(to_floats(one[start : start + _BATCH], device) for one in images))
            made.append(to_bytes(x.clamp(0, 1)))
    return np.concatenate(made)


def seeded(tools: Workshop, name: str, make: Callable[[], Network]) -> Network:
    """What ``make`` gives, its weights drawn from the stream ``name``; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tools.streams.integer(f"network:{name}"))
        made = make()
    return made.to(tools.device)
