"""What an ensemble is planned by."""

from __future__ import annotations

import math
from typing import Protocol

# Networks of patches need images of so many pixels a side.
PATCHED = 16
# Their patches: so many pixels a side, so many apart.
PATCH, STRIDE = 5, 3


def patches_of(side: int) -> int:
    """How many patches it takes along a side, so that every pixel lies in one."""
    return -(-(side - PATCH) // STRIDE) + 1


def floats_of_inputs(net: str, shape: tuple[int, int, int]) -> int:
    """How many numbers an image (H, W, C) is, as the networks take it; of resnet9's, without its border."""
    if net != "patches":
        return math.prod(shape)
    return patches_of(shape[0]) * patches_of(shape[1]) * (PATCH**2 * shape[2] + 1)


class Options(Protocol):
    """What of the detector's parameters an ensemble is planned by; they are explained there."""

    def ensemble_size(self, shape: tuple[int, int, int]) -> int:
        """How many networks for images (H, W, C), where no time is given."""

    @property
    def seconds(self) -> float | None:
        """As many as this time allows."""

    @property
    def share_of_ensemble(self) -> float:
        """What part of that time is the ensemble's."""

    @property
    def alpha(self) -> float:
        """The share of the training set in each subset."""

    @property
    def antithetic(self) -> bool:
        """Subsets in pairs."""

    @property
    def shared_start(self) -> bool:
        """One initialisation for all."""

    @property
    def estimator(self) -> str:
        """What is made of the networks."""

    @property
    def net(self) -> str:
        """Which networks, as asked."""

    def net_for(self, shape: tuple[int, int, int]) -> str:
        """Which networks for images (H, W, C): mlp, patches or resnet9."""

    @property
    def hidden(self) -> int | None:
        """Their hidden units."""

    @property
    def epochs(self) -> int | None:
        """Passes over a subset."""

    @property
    def chunk(self) -> int | None:
        """How many are trained at once."""
