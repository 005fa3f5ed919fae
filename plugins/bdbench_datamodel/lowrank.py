"""The search for large sets: W in factors, of which only the entries looked at are formed, some rows at a time.

The same objective, swaps and certificate as in ``search``. All starts climb together, so that what changes in each
becomes one matrix product with the factors; single swaps are looked for in a working set of each start, the members
and outsiders nearest to changing places, as support vector machines are trained (Joachims 1999).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.climb import furthest, swap
from bdbench_datamodel.influence import Factors, Influence, dots
from bdbench_datamodel.search import Objective, Problem

_TILE = 2048
_WORKING = 512
# As a matrix so many examples take 1.6 GB.
_FORMED = 20_000


def objective_of(influence: Influence, examples: np.ndarray, labels: np.ndarray | None = None) -> Objective:
    """What is searched for groups among some examples, int64 (k,), of W: in factors where it has them and is large.

    With ``labels`` (n,), entries between different labels count as zero.
    """
    own = None if labels is None else labels[examples]
    if isinstance(influence, Factors) and len(examples) > _FORMED:
        return LowRank.of(Factors(influence.left[examples], influence.right[examples]), own)
    return Problem.of(influence.block(examples), own, overwrite=True)


@dataclass(frozen=True)
class LowRank:
    """B = W + W' with a zero diagonal for W = left right', float32 (n, r) each.

    labels: int64 (n,); entries between different labels count as zero; row_sums, column_sums: float64 (n,), of W.
    """

    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    row_sums: np.ndarray
    column_sums: np.ndarray

    @classmethod
    def of(cls, factors: Factors, labels: np.ndarray | None = None) -> LowRank:
        """The problem of W; without ``labels`` (n,) all entries count."""
        left, right = factors.left, factors.right
        labels = np.zeros(len(left), np.int64) if labels is None else labels
        rows, columns = np.empty(len(left)), np.empty(len(left))
        for group in _groups(labels):
            rows[group] = _times(left, group, right[group].sum(0, dtype=np.float64))
            columns[group] = _times(right, group, left[group].sum(0, dtype=np.float64))
        diagonal = dots(left, right)
        return cls(left, right, labels, rows - diagonal, columns - diagonal)

    @functools.cached_property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest entry of B; every entry is made once, a tile at a time."""
        lowest = highest = 0.0
        for group in _groups(self.labels):
            for i in range(0, len(group), _TILE):
                for j in range(0, i + 1, _TILE):
                    tile = self.block(group[i : i + _TILE], group[j : j + _TILE])
                    lowest, highest = min(lowest, float(tile.min())), max(highest, float(tile.max()))
        return lowest, highest

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float32 (len(rows), len(columns)): entries of B."""
        entries = self.left[rows] @ self.right[columns].T
        entries += self.right[rows] @ self.left[columns].T
        entries[(self.labels[rows, None] != self.labels[columns]) | (rows[:, None] == columns)] = 0
        return entries

    def objective(self, members: np.ndarray) -> float:
        """J_k of the subset with these indices (k,)."""
        inside = -dots(self.left[members], self.right[members]).sum()
        for group in _groups(self.labels[members]):
            own = members[group]
            inside += self.left[own].sum(0, dtype=np.float64) @ self.right[own].sum(0, dtype=np.float64)
        return float(inside - len(members) / len(self.row_sums) * self.row_sums[members].sum())

    def best_gain(self, members: np.ndarray) -> float:
        """The largest change of J_k by any swap: at most 0, up to rounding, where ``members`` is a local optimum."""
        inside = np.zeros((1, len(self.row_sums)), bool)
        inside[0, members] = True
        gradient = self._gradients(inside)[0]
        gains = self._gains(gradient, members, np.flatnonzero(~inside[0]))
        return max(float(some.max()) for _, some in gains)

    def climb(self, members: np.ndarray, tolerance: float, advance: Callable[[int], None]) -> np.ndarray:
        """Make local optima of the rows of ``members``, int64 (starts, k), in place."""
        inside = np.zeros((len(members), len(self.row_sums)), bool)
        np.put_along_axis(inside, members, True, axis=1)
        self._exchange(inside, self._gradients(inside), tolerance)
        opened = np.arange(len(members))
        while len(opened):
            # Afresh each time, so that what is certified holds without accumulated rounding.
            gradients = self._gradients(inside[opened])
            improved = np.array([self._rises(inside[s], g, tolerance) for s, g in zip(opened, gradients, strict=True)])
            advance(int((~improved).sum()))
            opened = opened[improved]
        members[:] = np.nonzero(inside)[1].reshape(members.shape)
        return np.array([self.objective(own) for own in members])

    def _gradients(self, inside: np.ndarray) -> np.ndarray:
        """B v - c for each row v of ``inside``, bool (s, n); float64 (s, n).

        As B (v - k/n) + k/n W'1, so that what all examples have in common, such as how good a model is, cancels before
        it is rounded.
        """
        shares = inside.sum(1, keepdims=True) / len(self.row_sums)
        return self._product((inside - shares).astype(np.float32)) + shares * self.column_sums

    def _product(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (s, n) -> (s, n): each row times B."""
        product = np.empty_like(vectors)
        for group, left, right in self._parts:
            own = vectors[:, group]
            product[:, group] = (own @ right) @ left.T + (own @ left) @ right.T
        return product - 2 * vectors * self._diagonal

    @functools.cached_property
    def _parts(self) -> list[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
        """The examples of each label, with their rows of the factors."""
        groups = _groups(self.labels)
        if len(groups) == 1:
            return [(slice(None), self.left, self.right)]
        return [(group, self.left[group], self.right[group]) for group in groups]

    @functools.cached_property
    def _diagonal(self) -> np.ndarray:
        return dots(self.left, self.right).astype(np.float32)

    def _exchange(self, inside: np.ndarray, gradients: np.ndarray, tolerance: float) -> None:
        """``search``'s exchange of many members at once, in all rows together until no row gains."""
        caps = inside.sum(1)
        while (active := np.flatnonzero(caps)).size:
            changes = np.zeros((len(active), inside.shape[1]), np.float32)
            counts = [_mark(*row) for row in zip(changes, inside[active], gradients[active], caps[active], strict=True)]
            moves = self._product(changes)
            for change, move, count, s in zip(changes, moves, counts, active, strict=True):
                places = np.flatnonzero(change)
                if count and change[places] @ (gradients[s, places] + move[places] / 2) > tolerance:
                    gradients[s] += move
                    inside[s, places] = change[places] > 0
                else:
                    caps[s] = count // 2

    def _rises(self, inside: np.ndarray, gradient: np.ndarray, tolerance: float) -> bool:
        """As ``_improve``, and J_k rose: gains near the tolerance may be rounding, and would be taken for ever."""
        before = inside.copy()
        if not self._improve(inside, gradient, tolerance):
            return False
        if self.objective(np.flatnonzero(inside)) > self.objective(np.flatnonzero(before)):
            return True
        inside[:] = before
        return False

    def _improve(self, inside: np.ndarray, gradient: np.ndarray, tolerance: float) -> bool:
        """Swap in place within a working set; False if no swap of any member for any outsider gains."""
        lowest = self.extremes[0]
        members, outsiders = np.flatnonzero(inside), np.flatnonzero(~inside)
        # No entry of B is below the lowest: others cannot gain.
        members = members[gradient[members] < gradient[outsiders].max() - lowest - tolerance]
        outsiders = outsiders[gradient[outsiders] > gradient[members].min(initial=np.inf) + lowest + tolerance]
        if not members.size or not outsiders.size:
            return False
        near = _first(members, gradient[members]), _first(outsiders, -gradient[outsiders])
        if self._swap(*near, inside, gradient, tolerance):
            return True
        if len(near[0]) == len(members) and len(near[1]) == len(outsiders):
            return False
        for rows, gains in self._gains(gradient, members, outsiders):
            gaining = np.flatnonzero(gains.max(1) > tolerance)
            if gaining.size:
                best = np.unique(gains[gaining].argmax(1))
                if self._swap(rows[gaining], outsiders[best], inside, gradient, tolerance):
                    return True
        return False

    def _swap(
        self, members: np.ndarray, outsiders: np.ndarray, inside: np.ndarray, gradient: np.ndarray, tolerance: float
    ) -> bool:  # fmt: skip
        both = np.concatenate([members, outsiders])
        own, places = inside[both], np.arange(len(members))
        block = self.block(both, both)
        improved = swap(block, gradient[both], places, own, tolerance, block.min(1).astype(np.float64))
        inside[both] = own
        return bool(improved)

    def _gains(
        self, gradient: np.ndarray, members: np.ndarray, outsiders: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Members a few at a time (r,), and what swapping each for each outsider gains (r, outsiders)."""
        for start in range(0, len(members), _WORKING):
            rows = members[start : start + _WORKING]
            yield rows, gradient[outsiders] - gradient[rows, None] - self.block(rows, outsiders)


def _mark(change: np.ndarray, inside: np.ndarray, gradient: np.ndarray, cap: int) -> int:
    """Mark in ``change`` half of what is on the wrong side of the k-th largest gradient: how many pairs."""
    members = np.flatnonzero(inside)
    coming, going = furthest(gradient, members, inside, cap)
    change[coming] = 1
    change[members[going]] = -1
    return len(coming)


def _first(examples: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The few of lowest ``order``."""
    if len(examples) <= _WORKING:
        return examples
    return examples[np.argpartition(order, _WORKING)[:_WORKING]]


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _times(matrix: np.ndarray, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Some rows of a float32 matrix times a float64 vector, in float64."""
    parts = [matrix[rows[i : i + _TILE]].astype(np.float64) @ vector for i in range(0, len(rows), _TILE)]
    return np.concatenate(parts)
