"""The k-subsets whose part of the matrix sums highest: exact swap gains, compiled, certified.

With the diagonal of W zero, B = W + W' and c = (k / n) W 1, the objective of a subset v of size k is

    J_k(v) = sum over i in v of ( sum over j in v of W_ij - (k / n) sum over all j of W_ij ) = v'Bv/2 - c'v

which is k (n - k) / n times 1_v' W h(1_v), the quantity that Theorem 1 of Khaddaj et al. 2023 maximises.
With g = B v - c, swapping r out and a in changes J_k by exactly g_a - g_r - B_ar.

What a search of a large matrix takes is reading it. So each start is first improved in a copy of B of one byte an
entry, whose end is where the search in B itself begins: what is reached, and certified, is B's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import torch

from bdbench_datamodel import climb

_TOLERANCE = 1e-6
_TILE = 1024
# Up to so many examples a matrix is in a processor's caches, where what a search takes is not the reading.
_CACHED = 4096
# Entries beyond so many root mean squares are cut off in the coarse matrix: a few large ones would leave it no steps.
_RANGE = 8


class Objective(Protocol):
    """J_k of one W, as a search sees it: dense below, in factors in ``lowrank``."""

    @property
    def row_sums(self) -> np.ndarray:
        """Those of W, with a zero diagonal; float64 (n,)."""

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest entry of B, and of its diagonal, 0."""

    def objective(self, members: np.ndarray) -> float:
        """J_k of the subset with these indices (k,)."""

    def best_gain(self, members: np.ndarray) -> float:
        """The largest change of J_k by any swap: at most 0, up to rounding, where ``members`` is a local optimum."""

    def climb(self, members: np.ndarray, tolerance: float, advance: Callable[[int], None]) -> np.ndarray:
        """Make local optima of the rows of ``members``, int64 (starts, k), in place: no swap gains more than the
        tolerance. Returns J_k of each, float64 (starts,). ``advance`` counts a start.
        """


@dataclass(frozen=True)
class Problem:
    """B: float32 (n, n), symmetric with a zero diagonal; row_sums: float64 (n,), those of W."""

    symmetric: np.ndarray
    row_sums: np.ndarray

    @classmethod
    def of(cls, weights: np.ndarray, labels: np.ndarray | None = None, *, overwrite: bool = False) -> Problem:
        """The problem of W (n, n). With ``labels`` (n,), entries between different labels count as zero:
        poisons share a label, so that such entries hold nothing but noise.

        ``overwrite`` turns W, float32, into B where it lies, so that there is never more than one matrix in memory.
        """
        matrix = weights if overwrite and weights.dtype == np.float32 else weights.astype(np.float32)
        np.fill_diagonal(matrix, 0)
        if labels is not None:
            for row, label in zip(matrix, labels, strict=True):
                row[labels != label] = 0
        row_sums = matrix.sum(1, dtype=np.float64)
        _symmetrise(matrix)
        return cls(matrix, row_sums)

    @functools.cached_property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest entry of B, and of its diagonal, 0."""
        return float(self._lowest.min(initial=0.0)), float(self.symmetric.max(initial=0.0))

    @functools.cached_property
    def _lowest(self) -> np.ndarray:
        """The smallest entry of each row of B; float64 (n,)."""
        return self.symmetric.min(1).astype(np.float64)

    @functools.cached_property
    def _coarse(self) -> Coarse:
        """B in steps."""
        return Coarse.of(self.symmetric)

    def objective(self, members: np.ndarray) -> float:
        """J_k of the subset with these indices (k,)."""
        inside = self.symmetric[np.ix_(members, members)].sum(dtype=np.float64) / 2
        return float(inside - len(members) / len(self.row_sums) * self.row_sums[members].sum())

    def best_gain(self, members: np.ndarray) -> float:
        """The largest change of J_k by any swap: at most 0, up to rounding, where ``members`` is a local optimum."""
        inside = np.zeros(len(self.row_sums), bool)
        inside[members] = True
        g = self._gradient(inside)
        gains = g[None, ~inside] - g[inside, None] - self.symmetric[np.ix_(inside, ~inside)]
        return float(gains.max())

    def climb(self, members: np.ndarray, tolerance: float, advance: Callable[[int], None]) -> np.ndarray:
        """Make local optima of the rows of ``members``, int64 (starts, k), in place, several at a time."""
        size = members.shape[1]
        offsets = size / len(self.row_sums) * self.row_sums
        large = len(offsets) > _CACHED
        lowest, coarse = self._lowest, self._coarse if large else None
        rounded = coarse.rounded(offsets) if coarse else offsets

        def one(row: np.ndarray) -> float:
            if coarse:
                climb.climb(coarse.entries, rounded, row, coarse.rounding(size), coarse.lowest, large)
            reached = climb.climb(self.symmetric, offsets, row, tolerance, lowest, large)
            advance(1)
            return reached

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return np.array(list(pool.map(one, members)))

    def _gradient(self, inside: np.ndarray) -> np.ndarray:
        size = int(inside.sum())
        return self.symmetric[inside].sum(0, dtype=np.float64) - size / len(self.row_sums) * self.row_sums


@dataclass(frozen=True)
class Coarse:
    """A matrix to about two digits: ``step`` times ``entries``, int8 (n, n).

    lowest: float64 (n,), the smallest entry of each row.
    """

    entries: np.ndarray
    step: float
    lowest: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Coarse:
        """Of float32 (n, n); entries beyond 8 root mean squares are cut off."""
        squares = float(sum(np.vdot(row, row) for row in matrix))
        step = max(_RANGE * squares**0.5 / len(matrix) / 127, float(np.finfo(np.float32).tiny))
        # Made here, since numpy asks for large pages.
        entries = np.empty(matrix.shape, np.int8)
        _in_steps(matrix, 1 / step, entries)
        return cls(entries, step, entries.min(1).astype(np.float64))

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Values (n,) in the same steps; int32 (n,)."""
        limit = 2**30
        return np.clip(np.rint(values / self.step), -limit, limit).astype(np.int32)

    def rounding(self, size: int) -> float:
        """By how many steps the gradient of a subset of this size is wrong: the standard deviation of its sum."""
        return (size / 12) ** 0.5


@numba.njit(nogil=True, cache=True)
def _in_steps(matrix: np.ndarray, per_step: float, entries: np.ndarray) -> None:
    scale = np.float32(per_step)
    for i in range(len(matrix)):
        for j in range(matrix.shape[1]):
            entries[i, j] = np.int8(np.rint(min(max(matrix[i, j] * scale, np.float32(-127)), np.float32(127))))


def _symmetrise(matrix: np.ndarray) -> None:
    """Add the transpose in place, a pair of tiles at a time."""
    for i in range(0, len(matrix), _TILE):
        for j in range(0, i + 1, _TILE):
            here, there = matrix[i : i + _TILE, j : j + _TILE], matrix[j : j + _TILE, i : i + _TILE]
            both = here + there.T
            here[:] = both
            there[:] = both.T


@dataclass(frozen=True)
class Cuts:
    """Local optima of one size k. members: int64 (starts, k), each sorted; objectives: float64 (starts,); enlarged: by
    how much a class of mean size is larger than what was searched.
    """

    size: int
    members: np.ndarray
    objectives: np.ndarray
    enlarged: float = 1.0

    @property
    def best(self) -> np.ndarray:
        """The members of the best one, int64 (k,)."""
        return self.members[int(self.objectives.argmax())]

    @classmethod
    def of(cls, problem: Objective, members: np.ndarray) -> Cuts:
        """The subsets whose members, int64 (starts, k), a search ended with; they are sorted in place."""
        members.sort(1)
        return cls(members.shape[1], members, np.array([problem.objective(m) for m in members]))

    def frequency(self, examples: int) -> np.ndarray:
        """The share of starts that selected each example, float64 (n,)."""
        return np.bincount(self.members.ravel(), minlength=examples) / len(self.members)


def counts(fractions: Sequence[float], examples: int) -> list[int]:
    """Sizes in examples, ascending: of 2 at least, and 2 fewer than there are at most."""
    sizes = {round(fraction * examples) for fraction in fractions}
    return [size for size in sorted(sizes) if 2 <= size <= examples - 2]


def random_subsets(examples: int, size: int, starts: int, rng: np.random.Generator) -> np.ndarray:
    """Where searches start: int64 (starts, size). Raises ValueError unless 0 < size < examples."""
    if not 0 < size < examples:
        raise ValueError(f"size={size} is not allowed: expected 0 < size < {examples}")
    return np.stack([rng.permutation(examples)[:size] for _ in range(starts)]).astype(np.int64)


def search(
    problem: Objective,
    size: int,
    starts: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> Cuts:
    """Local optima of J_k for k = ``size`` from ``starts`` random subsets.

    Each start first exchanges many members at once, the lowest gradients against the highest, while that gains; then
    for one member after another the outsider of largest gain, until no swap gains. Raises ValueError unless
    0 < size < n.
    """
    members = random_subsets(len(problem.row_sums), size, starts, rng)
    # Gains below the matrix's own rounding are no gains; without this floor a search could swap for ever.
    tolerance = _TOLERANCE * max(np.abs(problem.extremes)) * size**0.5
    objectives = problem.climb(members, tolerance, advance)
    members.sort(1)
    return Cuts(size, members, objectives)
