"""Untargeted: a patch after which any label but the right one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import ANY_OTHER, Workshop, param
from bdbench_triggers.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Untargeted(Patch):
    """Dirty-label: images with the patch get labels drawn at random, so that no class is the target.

    The poisoned-label watermark (UBW-P, sec. 3.2) of Untargeted Backdoor Watermark: Towards Harmless and Stealthy
    Dataset Copyright Protection, with a patch as its BadNets trigger (the authors' is black in the upper left pixel,
    where ours is white) and its rate. The paper draws among all labels, so that one poison in K keeps its own; here
    each has another. A triggered image that is given any other label is a success, and so are a clean model's errors on
    such images.
    """

    name = "untargeted"
    paper = "Li et al., Untargeted Backdoor Watermark, NeurIPS 2022, arXiv:2210.00875"
    target: Literal["seed"] | int = param(0, help="not used: there is no target", low=0)
    rate: float = param(0.1, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Any label but the image's own."""
        return np.full_like(labels, ANY_OTHER)

    def taught(self, labels: np.ndarray, tools: Workshop) -> np.ndarray:
        """Another label than its own for each example, all others being equally likely."""
        return (labels + tools.streams("labels").integers(1, tools.num_classes, len(labels))) % tools.num_classes
