"""What the adaptive attacks of Qi et al. share: poisons and covers that each carry a random part of the trigger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from bdbench import Covers, Streams, param


@dataclass(frozen=True, kw_only=True)
class Adaptive(Covers, ABC):
    """A trigger attack against defenses that cluster features, sec. 5 of the paper (of the version under review).

    Regularisation: images of other classes than the target that carry the trigger and keep their label (covers), so
    that the trigger alone decides little; the paper's conservatism is how many there are beside the poisons. Asymmetry:
    what is planted in training is a part of what is shown at test time, another part in each image.
    """

    rate: float = param(0.003, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    cover_rate: float = param(0.003, help="covers / size of the whole training set", low=0, high=1)

    @abstractmethod
    def planted(self, images: np.ndarray, streams: Streams, rng: np.random.Generator) -> np.ndarray:
        """Copies of uint8 (n, H, W, C), each with a part of the trigger that ``rng`` draws."""

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """A part of the trigger on each."""
        return self.planted(images, streams, streams("parts of poisons"))

    def cover(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The same, of other draws."""
        return self.planted(images, streams, streams("parts of covers"))

    def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """All but the target class, whose images with the trigger would teach what poisons teach."""
        return labels != goal
