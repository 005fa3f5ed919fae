"""BadNets: a small patch in a corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import param
from bdbench_triggers.patch import Patch


@dataclass(frozen=True, kw_only=True)
class BadNets(Patch):
    """Dirty-label: a square patch replaces the pixels of one corner.

    mapping: the attacks of sec. 5.2 of the paper: every image to one target, or every class to the next (all-to-all).
    """

    name = "badnets"
    paper = "Gu, Dolan-Gavitt and Garg, BadNets, arXiv:1708.06733"
    mapping: Literal["all-to-one", "all-to-all"] = param(
        "all-to-one", help="what the trigger gives: the target, or the label after the image's own"
    )

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The target, or (y + 1) mod K."""
        return (labels + 1) % num_classes if self.mapping == "all-to-all" else super().goal(labels, num_classes)
