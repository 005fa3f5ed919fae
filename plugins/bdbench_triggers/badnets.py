"""BadNets: a small patch in a corner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self

from bdbench_triggers.mapping import Mapped
from bdbench_triggers.patch import Patch

_CORNERS: tuple[Literal["bottom-right", "bottom-left", "top-right", "top-left"], ...] = (
    "bottom-right",
    "bottom-left",
    "top-right",
    "top-left",
)


@dataclass(frozen=True, kw_only=True)
class BadNets(Mapped, Patch):
    """Dirty-label: a square patch replaces the pixels of one corner.

    The attack of BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain. Patch and rate are
    our own choice: the paper has one bright pixel, or a few, on MNIST, and stickers on traffic signs. Where there are
    several targets, the patches of the others are noise, in the corners that come after.
    """

    name = "badnets"
    paper = "Gu, Dolan-Gavitt and Garg, BadNets, arXiv:1708.06733"

    def variant(self, nth: int) -> Self:
        """Another corner and other noise for each target: recipes that mirror images would confuse corners alone."""
        corner = _CORNERS[(_CORNERS.index(self.corner) + nth) % len(_CORNERS)]
        return dataclasses.replace(self, corner=corner, pattern="noise") if nth else self
