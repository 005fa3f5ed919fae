"""Sparse linear datamodels (Ilyas et al. 2022, sec. 2), the estimator of the paper that the detector follows.

Every target is a regression of its own on the same n columns, so that all share one Gram matrix: with it, a step of
coordinate descent costs what the columns in play cost, whatever the number of networks.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch

from bdbench import check_memory
from bdbench_datamodel.influence import Dense

# .8 to .019, each .75 of the one before: on digits the best are about .4 with 100 networks and .06 with 1,000.
PENALTIES = (0.8 * 0.75 ** np.arange(14)).astype(np.float32)
# One in so many networks, the last, tells how well the others predict.
_HELD_OUT = 5
_TOLERANCE = np.float32(1e-3)
_BLOCK = 64
_EPOCHS = 1000
_ROUNDS = 200
_FEWEST = 10


def lasso(
    masks: np.ndarray,
    margins: np.ndarray,
    penalty: float | np.ndarray,
    advance: Callable[[int], None] = lambda targets: None,
) -> Dense:
    """argmin over w of ||F_i - S w||^2 / (2 m) + l_i ||w||_1 for every target i.

    masks: bool (m, n), margins: float (m, n), both centred over networks, which takes the place of a bias. An
    example's own inclusion is one of its regressors, so that what it does to itself is in the diagonal alone. l_i is
    ``penalty``, of all targets or float (n,), times the least for which w is zero, as each target has its own scale.
    Cyclic coordinate descent on a working set that grows by the largest violations (Massias et al. 2018), until
    correlations with what is left keep l_i to 1e-3 of it, or a thousand passes were made. Equal columns, which a
    few dozen networks leave, share their weight. ``advance`` counts targets. In memory: two matrices, float32 (n,
    n). Raises ValueError unless penalties are in (0, 1), and BdbenchError if there is too little memory.
    """
    penalties = np.broadcast_to(penalty, masks.shape[1])
    if not ((penalties > 0) & (penalties < 1)).all():
        raise ValueError(f"penalty={penalty} is not allowed: expected in (0, 1)")
    _check_memory(*masks.shape)
    fitted = _Regression.of(masks, margins)
    weights = np.zeros((len(penalties), len(penalties)), np.float32)

    def fit(targets: slice) -> None:
        pulls = fitted.pulls(targets)
        limits = penalties[targets] * np.abs(pulls).max(1)
        _fit(fitted.gram, pulls, limits.astype(np.float32), weights[targets])

    _each_block(fit, len(penalties), advance)
    _share_among_equals(weights, masks)
    return Dense(weights)


def chosen_penalties(
    masks: np.ndarray, margins: np.ndarray, advance: Callable[[int], None] = lambda targets: None
) -> np.ndarray:
    """For each target that of ``PENALTIES`` which predicts best; float32 (n,), as ``lasso`` takes them.

    They descend, each fit beginning with the one before it, on the first four fifths of the networks; the one of least
    squared error on the others is chosen, as the datamodels' authors do. A target's path ends when its error has risen
    twice in a row. masks: bool (m, n), margins: float (m, n). ``advance`` counts targets. Raises ValueError with fewer
    than two networks.
    """
    if len(masks) < 2:
        raise ValueError(f"models={len(masks)} is not allowed: expected at least 2")
    # What follows takes the two matrices: told now, before the path of penalties.
    _check_memory(*masks.shape)
    count = len(masks) - max(1, len(masks) // _HELD_OUT)
    fitted = _Regression.of(masks[:count], margins[:count])
    held = np.ascontiguousarray((masks[count:] - masks[:count].mean(0)).T, np.float32)
    outputs = np.ascontiguousarray((margins[count:] - margins[:count].mean(0, dtype=np.float64)).T, np.float32)
    chosen = np.empty(masks.shape[1], np.float32)

    def choose(targets: slice) -> None:
        chosen[targets] = _choose(fitted.gram, fitted.pulls(targets), held, outputs[targets], PENALTIES)

    _each_block(choose, len(chosen), advance)
    return chosen


def _check_memory(networks: int, examples: int) -> None:
    """Raises BdbenchError if the Gram matrix and the weights do not fit, beside subsets and margins in float32."""
    check_memory(8 * examples**2 + 8 * networks * examples, f"estimator=lasso on {examples} examples")


def _share_among_equals(weights: np.ndarray, masks: np.ndarray) -> None:
    """Give equal columns of the subsets the mean of their weights, in place. The solution is no worse for it, and does
    not depend on the order of the examples."""
    patterns = np.packbits(masks, axis=0).T
    _, of, sizes = np.unique(patterns, axis=0, return_inverse=True, return_counts=True)
    for pattern in np.flatnonzero(sizes > 1):
        equal = np.flatnonzero(of.ravel() == pattern)
        weights[:, equal] = weights[:, equal].mean(1, keepdims=True)


def _each_block(work: Callable[[slice], None], n: int, advance: Callable[[int], None]) -> None:
    """Blocks of n targets, several at once."""

    def one(first: int) -> None:
        targets = slice(first, min(first + _BLOCK, n))
        work(targets)
        advance(targets.stop - targets.start)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(one, range(0, n, _BLOCK)))


@dataclass(frozen=True)
class _Regression:
    """held: subsets, outputs: margins; float32 (m, n), centred and over the root of m. gram: (n, n), held' held."""

    held: np.ndarray
    outputs: np.ndarray
    gram: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, margins: np.ndarray) -> _Regression:
        root = len(masks) ** 0.5
        held = ((masks - masks.mean(0)) / root).astype(np.float32)
        outputs = ((margins - margins.mean(0, dtype=np.float64)) / root).astype(np.float32)
        return cls(held, outputs, held.T @ held)

    def pulls(self, targets: slice) -> np.ndarray:
        """The correlations of these targets with every column; float32 (k, n)."""
        return self.outputs[:, targets].T @ self.held


@numba.njit(nogil=True, cache=True)
def _fit(gram: np.ndarray, pulls: np.ndarray, limits: np.ndarray, weights: np.ndarray) -> None:
    """Each row of weights (k, n) to the solution for its limit l, of (k,), from where it is."""
    for i in range(len(pulls)):
        _solve(gram, pulls[i], limits[i], weights[i])


@numba.njit(nogil=True, cache=True)
def _choose(
    gram: np.ndarray, pulls: np.ndarray, held: np.ndarray, outputs: np.ndarray, penalties: np.ndarray
) -> np.ndarray:
    """For each row of pulls (k, n) the penalty whose weights predict best: outputs (k, v), of networks that held
    ``held`` (n, v)."""
    best = np.full(len(pulls), penalties[0])
    for i in range(len(pulls)):
        weights = np.zeros(pulls.shape[1], np.float32)
        least, before, risen = np.inf, np.inf, 0
        for penalty in penalties:
            _solve(gram, pulls[i], penalty * np.abs(pulls[i]).max(), weights)
            left = outputs[i].copy()
            for j in np.flatnonzero(weights):
                left -= weights[j] * held[j]
            error = (left.astype(np.float64) ** 2).sum()
            if error < least:
                least, best[i] = error, penalty
            risen = risen + 1 if error > before else 0
            if risen == 2:
                break
            before = error
    return best


@numba.njit(nogil=True, cache=True)
def _solve(gram: np.ndarray, pull: np.ndarray, limit: float, weights: np.ndarray) -> None:
    """One target: pull (n,), its correlations; weights (n,), changed in place."""
    support = np.flatnonzero(weights)
    left = _left(gram, pull, weights, support)
    # Rounds end long before; in float32 they might go round and round at the limit.
    for done in range(_ROUNDS):
        more = _violating(left, limit, weights, max(_FEWEST, len(support)))
        # What is there at the start is the solution for another limit.
        if done and not len(more):
            break
        working = np.concatenate((support, more))
        _descend(gram, working, left, limit, weights)
        support = working[weights[working] != 0]
        left = _left(gram, pull, weights, support)


@numba.njit(nogil=True, cache=True)
def _left(gram: np.ndarray, pull: np.ndarray, weights: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The correlations (n,) of every column with what the weights leave unexplained."""
    left = pull.copy()
    for j in support:
        weight, row = weights[j], gram[j]
        for i in range(len(left)):
            left[i] -= weight * row[i]
    return left


@numba.njit(nogil=True, cache=True)
def _violating(left: np.ndarray, limit: float, weights: np.ndarray, most: int) -> np.ndarray:
    """Columns without weight whose correlation is above the limit: the largest, so many at most, or more that tie."""
    excess = np.empty(len(left), np.float32)
    for j in range(len(left)):
        excess[j] = abs(left[j]) - limit if weights[j] == 0 else 0
    least = _TOLERANCE * limit
    violating = excess > least
    if violating.sum() > most:
        violating = excess >= np.partition(excess, len(excess) - most)[len(excess) - most]
    return np.flatnonzero(violating)


@numba.njit(nogil=True, cache=True)
def _descend(gram: np.ndarray, working: np.ndarray, left: np.ndarray, limit: float, weights: np.ndarray) -> None:
    """The weights of the working set (p,) alone to their optimum."""
    size = len(working)
    products = np.empty((size, size), np.float32)
    for a in range(size):
        row = gram[working[a]]
        for b in range(size):
            products[a, b] = row[working[b]]
    own, pull = weights[working], left[working]
    for _ in range(_EPOCHS):
        violated = np.float32(0)
        for a in range(size):
            square = products[a, a]
            aim = pull[a] + square * own[a]
            value = np.float32(np.sign(aim) * max(abs(aim) - limit, 0) / square)
            change = value - own[a]
            if change != 0:
                own[a] = value
                row = products[a]
                for b in range(size):
                    pull[b] -= change * row[b]
                violated = max(violated, square * abs(change))
        if violated <= _TOLERANCE * limit:
            break
    weights[working] = own
