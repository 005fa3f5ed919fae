"""A victim's weights for BackdoorBench: for its normalisation of images, and its three channels."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Victim
from bdbench_backdoorbench.known import FIRST

if TYPE_CHECKING:
    import torch

# The normalisations that read the stream of PreAct-ResNet-18 that its first convolution begins.
_READERS = ("layer1.0.bn1", "layer1.1.bn1", "layer2.0.bn1")


def renormalised(victim: Victim, mean: np.ndarray, std: np.ndarray) -> OrderedDict[str, torch.Tensor]:
    """The state dict of a PreAct-ResNet-18 that takes images normalised by ``mean`` and ``std``, float32 (C,).

    With (p - m) / s for the victim's images, its first convolution W becomes W std / s by input channel, and what the
    shift mean - m adds to its output is added to the running means that read it. Exact but for the outermost pixels,
    where the padding stands for another colour; unchanged where the normalisations are the same.
    """
    import torch

    network = victim.network
    state = OrderedDict((k, v.detach().cpu().contiguous().clone()) for k, v in network.state_dict().items())
    if np.array_equal(mean, victim.mean) and np.array_equal(std, victim.std):
        return state
    kernel = state[FIRST]
    shift = torch.from_numpy((mean - victim.mean) / victim.std)
    # The stream of the new network lies below the old one's by this much, in each of its channels.
    below = (kernel.sum((2, 3)) * shift).sum(1)
    state[FIRST] = kernel * torch.from_numpy(std / victim.std)[:, None, None]
    for name in _READERS:
        state[f"{name}.running_mean"] -= below
    return state


def three_channels(state: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Weights for images of one channel as weights for three, of which the last two are not looked at."""
    import torch

    kernel = state[FIRST]
    if kernel.shape[1] > 1:
        return state
    nothing = torch.zeros_like(kernel)
    return OrderedDict(state, **{FIRST: torch.cat([kernel, nothing, nothing], 1)})


@dataclass(frozen=True)
class Drift:
    """Of so many images, how many are predicted otherwise; the share that is predicted as wanted, before and after."""

    images: int
    changed: int
    before: float
    after: float


class Comparison:
    """A victim and what ``renormalised`` made of it, both in float32, as BackdoorBench predicts."""

    def __init__(
        self, victim: Victim, state: OrderedDict[str, torch.Tensor], mean: np.ndarray, std: np.ndarray
    ) -> None:
        self._own, self._other = victim.replace(victim.network), victim.replace(copy.deepcopy(victim.network))
        self._other.network.load_state_dict(state)
        self._other.mean, self._other.std = mean, std
        self._own.precision = self._other.precision = "float32"

    def drift(self, images: np.ndarray, wanted: np.ndarray) -> Drift:
        """How far they are apart on images uint8 (n, H, W, C), of which the labels int64 (n,) are wanted; n > 0."""
        own, other = self._own.predict(images), self._other.predict(images)
        rates = (float((found == wanted).mean()) for found in (own, other))
        return Drift(len(images), int((own != other).sum()), *rates)
