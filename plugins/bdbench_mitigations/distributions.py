"""What batch normalisations are given, channel by channel, when a model sees images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bdbench import BdbenchError, Victim
from bdbench_mitigations.channels import norms, watched


def given(victim: Victim, images: np.ndarray, of: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, np.ndarray]:
    """What ``of`` makes of each normalisation's input, (b, C, H, W) -> (b, C, ...), for uint8 (n, H, W, C); by name.

    Raises BdbenchError for a model without batch normalisation.
    """
    names = norms(victim.network)
    if not names:
        raise BdbenchError("the model has no batch normalisation of images: expected one with it, whose inputs tell")
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def saw(name: str, module: nn.Module, before: torch.Tensor, output: torch.Tensor) -> None:
        if name in found:
            found[name].append(of(before.double()).cpu().numpy())

    with watched(victim.network, nn.BatchNorm2d, saw):
        victim.logits(images)
    return {name: np.concatenate(parts) for name, parts in found.items()}
