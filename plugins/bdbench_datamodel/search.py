"""The k-subsets whose part of the matrix sums highest: exact swap gains, compiled, certified.

With the diagonal of W zero, B = W + W' and c = (k / n) W 1, the objective of a subset v of size k is

    J_k(v) = sum over i in v of ( sum over j in v of W_ij - (k / n) sum over all j of W_ij ) = v'Bv/2 - c'v

which is k (n - k) / n times 1_v' W h(1_v), the quantity that Theorem 1 of Khaddaj et al. 2023 maximises.
With g = B v - c, swapping r out and a in changes J_k by exactly g_a - g_r - B_ar.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np

_TOLERANCE = 1e-6
_TILE = 1024


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

    def climb(self, members: np.ndarray, tolerance: float, advance: Callable[[int], None]) -> None:
        """Make local optima of the rows of ``members``, int64 (starts, k), in place: no swap gains more than the
        tolerance. ``advance`` counts a start.
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
        return float(self.symmetric.min(initial=0.0)), float(self.symmetric.max(initial=0.0))

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

    def climb(self, members: np.ndarray, tolerance: float, advance: Callable[[int], None]) -> None:
        """Make local optima of the rows of ``members``, int64 (starts, k), in place, several at a time."""
        offsets = members.shape[1] / len(self.row_sums) * self.row_sums

        def one(row: np.ndarray) -> None:
            _climb(self.symmetric, offsets, row, tolerance, self.extremes[0])
            advance(1)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, members))

    def _gradient(self, inside: np.ndarray) -> np.ndarray:
        size = int(inside.sum())
        return self.symmetric[inside].sum(0, dtype=np.float64) - size / len(self.row_sums) * self.row_sums


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
    """Local optima of one size k. members: int64 (starts, k), each sorted; objectives: float64 (starts,)."""

    size: int
    members: np.ndarray
    objectives: np.ndarray

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
    for one member after another the outsider of largest gain, until no swap gains. The gradient is then made
    afresh and the pass repeated, so that the result is certified without accumulated rounding. Raises ValueError
    unless 0 < size < n.
    """
    members = random_subsets(len(problem.row_sums), size, starts, rng)
    # Gains below the matrix's own rounding are no gains; without this floor a search could swap for ever.
    tolerance = _TOLERANCE * max(np.abs(problem.extremes)) * size**0.5
    problem.climb(members, tolerance, advance)
    return Cuts.of(problem, members)


@numba.njit(nogil=True, cache=True)
def _climb(b: np.ndarray, offsets: np.ndarray, members: np.ndarray, tolerance: float, lowest: float) -> None:
    """Improve ``members`` (k,) in place until no swap gains more than the tolerance."""
    inside = np.zeros(len(offsets), np.bool_)
    inside[members] = True
    _exchange(b, _gradient(b, offsets, members), members, inside, tolerance)
    while swap(b, _gradient(b, offsets, members), members, inside, tolerance, lowest):
        pass


@numba.njit(nogil=True, cache=True)
def _gradient(b: np.ndarray, offsets: np.ndarray, members: np.ndarray) -> np.ndarray:
    gradient = -offsets
    for r in members:
        row = b[r]
        for j in range(len(gradient)):
            gradient[j] += row[j]
    return gradient


@numba.njit(nogil=True, cache=True)
def _exchange(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float
) -> None:  # fmt: skip
    """Exchange the members below the k-th largest gradient for the outsiders above it: the half that are furthest,
    or half as many again whenever J_k would not rise. With D the change of v, that is D'(g + g after it) / 2.
    """
    n, cap = len(gradient), len(members)
    moved = np.empty(n)
    while cap:
        threshold = np.partition(gradient, n - len(members))[n - len(members)]
        coming = np.flatnonzero((gradient >= threshold) & ~inside)
        going = np.flatnonzero(gradient[members] < threshold)
        # With all that are misplaced at once the subset mostly oscillates.
        count = min(cap, (min(len(coming), len(going)) + 1) // 2)
        if not count:
            return
        coming = coming[np.argsort(-gradient[coming])[:count]]
        going = going[np.argsort(gradient[members[going]])[:count]]
        moved[:] = gradient
        for i in range(count):
            entering, leaving = b[coming[i]], b[members[going[i]]]
            for j in range(n):
                moved[j] += entering[j] - leaving[j]
        rise = 0.0
        for i in range(count):
            a, r = coming[i], members[going[i]]
            rise += (gradient[a] + moved[a] - gradient[r] - moved[r]) / 2
        if rise > tolerance:
            inside[coming], inside[members[going]] = True, False
            members[going] = coming
            gradient[:] = moved
        else:
            cap = count // 2


@numba.njit(nogil=True, cache=True)
def swap(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float, lowest: float
) -> bool:  # fmt: skip
    """Swap one member after another for the outsider of largest gain until none gains; whether any did."""
    n = len(gradient)
    improved, changed = False, True
    while changed:
        changed = False
        top = gradient[~inside].max()
        for i in range(len(members)):
            r = members[i]
            # No entry of B is below the lowest: no outsider can gain here, and r's row need not be read.
            if top - gradient[r] - lowest <= tolerance:
                continue
            row = b[r]
            best, best_gain = -1, tolerance
            for a in range(n):
                gain = gradient[a] - gradient[r] - row[a]
                if gain > best_gain and not inside[a]:
                    best, best_gain = a, gain
            if best >= 0:
                members[i] = best
                inside[r], inside[best] = False, True
                entering = b[best]
                for j in range(n):
                    gradient[j] += entering[j] - row[j]
                top = gradient[~inside].max()
                changed = improved = True
    return improved
