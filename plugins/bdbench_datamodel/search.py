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
        offsets = members.shape[1] / len(self.row_sums) * self.row_sums
        lowest = self._lowest

        def one(row: np.ndarray) -> float:
            reached = _climb(self.symmetric, offsets, row, tolerance, lowest)
            advance(1)
            return reached

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.array(list(pool.map(one, members)))

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
    for one member after another the outsider of largest gain, until no swap gains. Raises ValueError unless
    0 < size < n.
    """
    members = random_subsets(len(problem.row_sums), size, starts, rng)
    # Gains below the matrix's own rounding are no gains; without this floor a search could swap for ever.
    tolerance = _TOLERANCE * max(np.abs(problem.extremes)) * size**0.5
    objectives = problem.climb(members, tolerance, advance)
    members.sort(1)
    return Cuts(size, members, objectives)


@numba.njit(nogil=True, cache=True)
def _climb(b: np.ndarray, offsets: np.ndarray, members: np.ndarray, tolerance: float, lowest: np.ndarray) -> float:
    """Improve ``members`` (k,) in place until no swap gains more than the tolerance; J_k at the end.

    The gradient B v - c is kept in float64 all the way: what some thousand rows of float32 leave there in rounding is
    far below the tolerance. J_k is half the sum of g - c over the members.
    """
    inside = np.zeros(len(offsets), np.bool_)
    inside[members] = True
    gradient = -offsets
    _add(gradient, b, members, 1.0)
    _exchange(b, gradient, members, inside, tolerance)
    swap(b, gradient, members, inside, tolerance, lowest)
    return (gradient[members] - offsets[members]).sum() / 2


@numba.njit(nogil=True, cache=True)
def _add(total: np.ndarray, b: np.ndarray, rows: np.ndarray, sign: float) -> None:
    """total (n,) += sign * the sum of these rows: four at a time, since one alone does not keep the memory busy."""
    fours = len(rows) - len(rows) % 4
    for i in range(0, fours, 4):
        first, second, third, fourth = b[rows[i]], b[rows[i + 1]], b[rows[i + 2]], b[rows[i + 3]]
        for j in range(len(total)):
            total[j] += sign * ((np.float64(first[j]) + second[j]) + (np.float64(third[j]) + fourth[j]))
    for r in rows[fours:]:
        row = b[r]
        for j in range(len(total)):
            total[j] += sign * row[j]


@numba.njit(nogil=True, cache=True)
def _exchange(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float
) -> None:  # fmt: skip
    """Exchange the members below the k-th largest gradient for the outsiders above it: the half that are furthest,
    or half as many again whenever J_k would not rise. With D the change of v, that is D'(g + g after it) / 2.
    """
    cap = len(members)
    moved = np.empty(len(gradient))
    while cap:
        coming, going = _misplaced(gradient, members, inside)
        # With all that are misplaced at once the subset mostly oscillates.
        count = min(cap, (len(coming) + 1) // 2)
        if not count:
            return
        coming, going = coming[:count], going[:count]
        leaving = members[going]
        moved[:] = gradient
        _add(moved, b, coming, 1.0)
        _add(moved, b, leaving, -1.0)
        rise = (gradient[coming] + moved[coming] - gradient[leaving] - moved[leaving]).sum() / 2
        if rise > tolerance:
            inside[coming], inside[leaving] = True, False
            members[going] = coming
            gradient[:] = moved
        else:
            cap = count // 2


@numba.njit(nogil=True, cache=True)
def _misplaced(gradient: np.ndarray, members: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outsiders of the k largest gradients, and the places in ``members`` of those that are not: in pairs, the
    furthest first.
    """
    own = gradient[members]
    coming = _outsiders(gradient, inside, own.min())
    if not len(coming):
        return coming, coming
    going = np.flatnonzero(own < gradient[coming].max())
    coming = coming[np.argsort(-gradient[coming])]
    going = going[np.argsort(own[going])]
    count = 0
    while count < min(len(coming), len(going)) and gradient[coming[count]] > own[going[count]]:
        count += 1
    return coming[:count], going[:count]


@numba.njit(nogil=True, cache=True)
def swap(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float, lowest: np.ndarray
) -> bool:  # fmt: skip
    """Swap one member after another for the outsider of largest gain until none gains; whether any did.

    lowest: float64 (n,), no more than any entry of its row of b. It tells whom an outsider can gain against at all, so
    that most rows need not be read, and of the others a few entries.
    """
    near, top = _near(gradient, members, inside, tolerance, lowest)
    improved, unmoved, place = False, 0, 0
    while unmoved < len(members):
        r = members[place]
        unmoved += 1
        if top - gradient[r] - lowest[r] > tolerance:
            row = b[r]
            best, best_gain = -1, tolerance
            for a in near:
                gain = gradient[a] - gradient[r] - row[a]
                if gain > best_gain:
                    best, best_gain = a, gain
            if best >= 0:
                members[place] = best
                inside[r], inside[best] = False, True
                entering = b[best]
                for j in range(len(gradient)):
                    gradient[j] += np.float64(entering[j]) - row[j]
                near, top = _near(gradient, members, inside, tolerance, lowest)
                improved, unmoved = True, 0
        place = (place + 1) % len(members)
    return improved


@numba.njit(nogil=True, cache=True)
def _near(
    gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float, lowest: np.ndarray
) -> tuple[np.ndarray, float]:  # fmt: skip
    """The outsiders that may gain against some member, and the largest of their gradients."""
    floor = (gradient[members] + lowest[members]).min() + tolerance
    near = _outsiders(gradient, inside, floor)
    return near, gradient[near].max() if len(near) else -np.inf


@numba.njit(nogil=True, cache=True)
def _outsiders(gradient: np.ndarray, inside: np.ndarray, floor: float) -> np.ndarray:
    """Those whose gradient is above the floor; without a branch, which would be guessed wrong half the time."""
    found = np.empty(len(gradient), np.int64)
    count = 0
    for j in range(len(gradient)):
        found[count] = j
        count += (gradient[j] > floor) & (not inside[j])
    return found[:count]
