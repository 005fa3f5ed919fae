"""A victim's weights for another normalisation of its images."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Victim

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
    kernel = state["conv1.weight"]
    shift = torch.from_numpy((mean - victim.mean) / victim.std)
    # The stream of the new network lies below the old one's by this much, in each of its channels.
    below = (kernel.sum((2, 3)) * shift).sum(1)
    state["conv1.weight"] = kernel * torch.from_numpy(std / victim.std)[:, None, None]
    for name in _READERS:
        state[f"{name}.running_mean"] -= below
    return state
