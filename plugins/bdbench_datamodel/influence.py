"""The train-on-train matrix W, whole or by blocks, from whichever estimator.

Row i is the datamodel of example i as a target, column j the effect on it of having example j in the training
set. The diagonal counts as zero: an example's effect on itself is no evidence of a group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from bdbench import check_memory


class Influence(ABC):
    """W (n, n). ``block`` gives the part among some examples, so that a large W need never be formed."""

    examples: int

    @abstractmethod
    def block(self, index: np.ndarray) -> np.ndarray:
        """float32 (k, k): W among the examples of ``index``, int64 (k,), with a zero diagonal."""

    def dense(self) -> np.ndarray:
        """float32 (n, n)."""
        return self.block(np.arange(self.examples))

    def root_mean_square(self, index: np.ndarray) -> float:
        """Of the entries of ``block``."""
        return float(np.sqrt(np.mean(self.block(index) ** 2, dtype=np.float64)))

    def symmetric_times(self, index: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """(block + block') vector; float64 (k,)."""
        block = self.block(index)
        return block @ vector.astype(np.float64) + vector.astype(np.float64) @ block


@dataclass(frozen=True)
class Dense(Influence):
    """W as it is: float32 (n, n)."""

    weights: np.ndarray

    @property
    def examples(self) -> int:  # type: ignore[override]
        """n."""
        return len(self.weights)

    def block(self, index: np.ndarray) -> np.ndarray:
        """float32 (k, k)."""
        return _hollow(self.weights[np.ix_(index, index)])


@dataclass(frozen=True)
class Factors(Influence):
    """W = left right': float32 (n, r) each, of rank r at most."""

    left: np.ndarray
    right: np.ndarray

    @property
    def examples(self) -> int:  # type: ignore[override]
        """n."""
        return len(self.left)

    def block(self, index: np.ndarray) -> np.ndarray:
        """float32 (k, k)."""
        check_memory(4 * len(index) ** 2, f"the matrix of {len(index)} examples")
        return _hollow(self.left[index] @ self.right[index].T)

    def root_mean_square(self, index: np.ndarray) -> float:
        """Of the entries of ``block``, which is formed only where it is smaller than the factors."""
        left, right = self.left[index], self.right[index]
        if len(index) <= left.shape[1]:
            return super().root_mean_square(index)
        # The squares of L R' sum to the trace of L'L R'R.
        squares = np.sum((left.T @ left) * (right.T @ right), dtype=np.float64)
        diagonal = dots(left, right)
        return float(np.sqrt(max(squares - np.sum(diagonal**2), 0.0)) / len(index))

    def symmetric_times(self, index: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """(block + block') vector; float64 (k,)."""
        left, right, vector = self.left[index], self.right[index], vector.astype(np.float64)
        diagonal = dots(left, right)
        return left @ (vector @ right) + right @ (vector @ left) - 2 * diagonal * vector


def dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The diagonal of left right'; float64 (n,)."""
    return np.einsum("ij,ij->i", left, right, dtype=np.float64)


def _hollow(block: np.ndarray) -> np.ndarray:
    block = np.asarray(block, np.float32)
    np.fill_diagonal(block, 0)
    return block
