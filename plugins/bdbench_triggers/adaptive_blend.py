"""Adaptive-blend: a picture of which every poison shows other pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, State, Streams, Workshop, param
from bdbench_triggers.adaptive import Adaptive
from bdbench_triggers.blend import Blend
from bdbench_triggers.mapping import _own


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(Adaptive, Blend):
    """Dirty-label: x' = x + alpha m (p - x), where m shows a random half of the 4 x 4 pieces of the pattern p.

    At test time m = 1 and alpha is larger. The paper's CIFAR-10 setting: 150 poisons and as many covers of 50,000. Its
    sec. 5.1 and its code draw covers from all classes; here, as its abstract has it, not from the target. Its picture
    is not ours to hand on: the default is noise. Pieces are as equal as the size of the images lets them be. Several
    targets share the covers evenly, as they do the poisons.
    """

    name = "adaptive-blend"
    paper = "Qi et al., Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023"
    alpha: float = param(0.15, help="weight of the pattern in training", low=0, high=1, exclusive=True)
    test_alpha: float | None = param(0.2, help="its weight at test time (none: alpha)", low=0, high=1, exclusive=True)
    grid: int = param(4, help="pieces along each side", low=1)
    shown: float = param(0.5, help="share of the pieces that a training image shows", low=0, high=1, exclusive=True)

    def planted(self, images: np.ndarray, streams: Streams, rng: np.random.Generator) -> np.ndarray:
        """Blend at the training strength, where the pieces of an image are. Raises BdbenchError if they do not fit."""
        height, width = images.shape[1:3]
        if self.grid > min(height, width):
            raise BdbenchError(
                f"attack {self.name!r}: grid={self.grid} does not fit images of {height} x {width}: "
                f"expected at most {min(height, width)}"
            )
        pieces = self.grid**2
        order = rng.permuted(np.tile(np.arange(pieces), (len(images), 1)), axis=1)
        shows = (order < max(1, round(self.shown * pieces))).reshape(-1, self.grid, self.grid)
        rows, columns = (np.arange(side) * self.grid // side for side in (height, width))
        mask = shows[:, rows[:, None], columns]
        return np.where(mask[..., None], self._blend(images, streams, self.alpha), images)

    def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """None of the targets."""
        if isinstance(self.targets, tuple):
            return np.isin(labels, self.targets, invert=True)
        return super().cover_sources(labels, goal)

    def covered(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Covers of each target's trigger in turn."""
        if not isinstance(self.targets, tuple):
            return super().covered(images, chosen, state, tools)
        made = np.empty_like(images)
        for nth in range(len(self.targets)):
            turn = slice(nth, None, len(self.targets))
            made[turn] = self.variant(nth).cover(images[turn], _own(tools.streams, nth))
        return made
