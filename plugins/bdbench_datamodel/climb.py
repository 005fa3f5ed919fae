"""The compiled steps of the search in a matrix: they improve one subset of k examples in place.

B (n, n) is symmetric with a zero diagonal, float32 with its gradient B v - c in float64, or coarse, int8 with its
gradient in int32: see ``search``.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def climb(b: np.ndarray, offsets: np.ndarray, members: np.ndarray, tolerance: float, lowest: np.ndarray) -> float:
    """Improve ``members`` (k,) until no swap gains more than the tolerance; J_k at the end.

    offsets: c, float64 (n,); lowest: float64 (n,), no more than any entry of its row of b. What some thousand rows of
    float32 leave in a float64 gradient in rounding is far below the tolerance. J_k is half the sum of g - c over the
    members.
    """
    inside, gradient = _at(b, offsets, members)
    _exchange(b, gradient, members, inside, tolerance)
    swap(b, gradient, members, inside, tolerance, lowest)
    return (gradient[members] - offsets[members]).sum() / 2


@numba.njit(nogil=True, cache=True)
def exchange(b: np.ndarray, offsets: np.ndarray, members: np.ndarray, tolerance: float) -> None:
    """Exchange many of ``members`` (k,) at once while that gains more than the tolerance; offsets: c, of b's kind."""
    inside, gradient = _at(b, offsets, members)
    _exchange(b, gradient, members, inside, tolerance)


@numba.njit(nogil=True, cache=True)
def _at(b: np.ndarray, offsets: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v, bool (n,), and its gradient (n,)."""
    inside = np.zeros(len(offsets), np.bool_)
    inside[members] = True
    gradient = -offsets
    _add(gradient, b, members, 1)
    return inside, gradient


@numba.njit(nogil=True, cache=True)
def _add(total: np.ndarray, b: np.ndarray, rows: np.ndarray, sign: int) -> None:
    """total (n,) += sign * the sum of these rows: four at a time, since one alone does not keep the memory busy."""
    wide = total.dtype.type
    fours = len(rows) - len(rows) % 4
    for i in range(0, fours, 4):
        first, second, third, fourth = b[rows[i]], b[rows[i + 1]], b[rows[i + 2]], b[rows[i + 3]]
        for j in range(len(total)):
            total[j] += sign * ((wide(first[j]) + wide(second[j])) + (wide(third[j]) + wide(fourth[j])))
    for r in rows[fours:]:
        row = b[r]
        for j in range(len(total)):
            total[j] += sign * wide(row[j])


@numba.njit(nogil=True, cache=True)
def _exchange(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float
) -> None:  # fmt: skip
    """Exchange the members below the k-th largest gradient for the outsiders above it: the half that are furthest,
    or half as many again whenever J_k would not rise. With D the change of v, that is D'(g + g after it) / 2.
    """
    cap = len(members)
    moved = np.empty_like(gradient)
    while cap:
        coming, going = misplaced(gradient, members, inside)
        # With all that are misplaced at once the subset mostly oscillates.
        count = min(cap, (len(coming) + 1) // 2)
        if not count:
            return
        coming, going = coming[:count], going[:count]
        leaving = members[going]
        moved[:] = gradient
        _add(moved, b, coming, 1)
        _add(moved, b, leaving, -1)
        rise = (gradient[coming] + moved[coming] - gradient[leaving] - moved[leaving]).sum() / 2
        if rise > tolerance:
            inside[coming], inside[leaving] = True, False
            members[going] = coming
            gradient[:] = moved
        else:
            cap = count // 2


@numba.njit(nogil=True, cache=True)
def misplaced(gradient: np.ndarray, members: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outsiders of the k largest gradients, and the places in ``members`` (k,) of those that are not: in pairs, the
    furthest first.
    """
    own = gradient[members]
    coming = _outsiders(gradient, inside, own.min())
    if not len(coming):
        return coming, coming
    rising = gradient[coming]
    going = np.flatnonzero(own < rising.max())
    falling = own[going]
    # All other members lie above these, all other outsiders below: as many as go are to stay or come.
    threshold = np.partition(np.concatenate((rising, falling)), len(rising))[len(rising)]
    coming, going = coming[rising >= threshold], going[falling <= threshold]
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
