"""The compiled steps of the search in a matrix: they improve one subset of k examples in place.

B (n, n) is symmetric with a zero diagonal, float32 with its gradient B v - c in float64, or coarse, int8 with its
gradient in int32: see ``search``.
"""

from __future__ import annotations

import numba
import numpy as np

# Of members and of outsiders each: their part of b is in a processor's caches.
_WORKING = 128
# As many values are sorted sooner than they are searched.
_SHORT = 200


@numba.njit(nogil=True, cache=True)
def climb(
    b: np.ndarray, offsets: np.ndarray, members: np.ndarray, tolerance: float, lowest: np.ndarray, large: bool
) -> float:  # fmt: skip
    """Improve ``members`` (k,) until no swap gains more than the tolerance; J_k at the end.

    offsets: c (n,), of the gradient's kind; lowest: float64 (n,), no more than any entry of its row of b; large:
    whether b is too large for the caches. What some thousand rows of float32 leave in a float64 gradient in rounding is
    far below the tolerance. J_k is half the sum of g - c over the members.
    """
    inside, gradient = _at(b, offsets, members)
    _exchange(b, gradient, members, inside, tolerance)
    if large:
        _swap_nearby(b, gradient, members, inside, tolerance, lowest)
    swap(b, gradient, members, inside, tolerance, lowest)
    return (gradient[members] - offsets[members]).sum() / 2


@numba.njit(nogil=True, cache=True)
def _at(b: np.ndarray, offsets: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v, bool (n,), and its gradient (n,)."""
    inside = np.zeros(len(offsets), np.bool_)
    inside[members] = True
    gradient = -offsets
    _add(gradient, b, members)
    return inside, gradient


@numba.njit(nogil=True, cache=True)
def _add(total: np.ndarray, b: np.ndarray, rows: np.ndarray) -> None:
    """total (n,) += the sum of these rows: eight at a time, since fewer do not keep the memory busy."""
    wide = total.dtype.type
    eights = len(rows) - len(rows) % 8
    for i in range(0, eights, 8):
        r0, r1, r2, r3 = b[rows[i]], b[rows[i + 1]], b[rows[i + 2]], b[rows[i + 3]]
        r4, r5, r6, r7 = b[rows[i + 4]], b[rows[i + 5]], b[rows[i + 6]], b[rows[i + 7]]
        for j in range(len(total)):
            four = (wide(r0[j]) + wide(r1[j])) + (wide(r2[j]) + wide(r3[j]))
            total[j] += four + ((wide(r4[j]) + wide(r5[j])) + (wide(r6[j]) + wide(r7[j])))
    for r in rows[eights:]:
        row = b[r]
        for j in range(len(total)):
            total[j] += wide(row[j])


@numba.njit(nogil=True, cache=True)
def _replace(total: np.ndarray, b: np.ndarray, coming: np.ndarray, leaving: np.ndarray) -> None:
    """total (n,) += the sum of the rows coming less that of as many leaving: eight at a time, as in ``_add``."""
    wide = total.dtype.type
    fours = len(coming) - len(coming) % 4
    for i in range(0, fours, 4):
        r0, r1, r2, r3 = b[coming[i]], b[coming[i + 1]], b[coming[i + 2]], b[coming[i + 3]]
        r4, r5, r6, r7 = b[leaving[i]], b[leaving[i + 1]], b[leaving[i + 2]], b[leaving[i + 3]]
        for j in range(len(total)):
            four = (wide(r0[j]) + wide(r1[j])) + (wide(r2[j]) + wide(r3[j]))
            total[j] += four - ((wide(r4[j]) + wide(r5[j])) + (wide(r6[j]) + wide(r7[j])))
    for i in range(fours, len(coming)):
        r0, r1 = b[coming[i]], b[leaving[i]]
        for j in range(len(total)):
            total[j] += wide(r0[j]) - wide(r1[j])


@numba.njit(nogil=True, cache=True)
def _exchange(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float
) -> None:  # fmt: skip
    """Exchange the members below the k-th largest gradient for the outsiders above it: the half that are furthest,
    or half as many again whenever J_k would not rise. With D the change of v, that is D'(g + g after it) / 2.
    """
    cap = len(members)
    while cap:
        coming, going = furthest(gradient, members, inside, cap)
        if not len(coming):
            return
        leaving = members[going]
        rise = gradient[coming].sum() - gradient[leaving].sum()
        _replace(gradient, b, coming, leaving)
        rise += gradient[coming].sum() - gradient[leaving].sum()
        if rise / 2 > tolerance:
            inside[coming], inside[leaving] = True, False
            members[going] = coming
        else:
            _replace(gradient, b, leaving, coming)
            cap = len(coming) // 2


@numba.njit(nogil=True, cache=True)
def furthest(
    gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, cap: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Outsiders of the k largest gradients, and the places in ``members`` (k,) of those that are not: of as many pairs
    the half whose gradients are furthest from the k-th, at most ``cap``. With all of them at once the subset mostly
    oscillates.
    """
    own = gradient[members]
    coming = _outsiders(gradient, inside, own.min())
    if not len(coming):
        return coming, coming
    rising = gradient[coming]
    going = _where(own < rising.max())
    falling = own[going]
    # All other members lie above these, all other outsiders below: as many as go are to stay or come.
    threshold = np.partition(np.concatenate((rising, falling)), len(rising))[len(rising)]
    coming, going = coming[rising >= threshold], going[falling <= threshold]
    rising, falling = gradient[coming], own[going]
    pairs = max((rising > threshold).sum(), (falling < threshold).sum())
    count = min(cap, (pairs + 1) // 2)
    return coming[_least(-rising, count)], going[_least(falling, count)]


@numba.njit(nogil=True, cache=True)
def _swap_nearby(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float, lowest: np.ndarray
) -> None:  # fmt: skip
    """Swap among the members and outsiders nearest to each other, in a copy of their part of b, and then bring the
    gradient up to date, until they no longer gain. A swap in b itself reads two rows of it from end to end.
    """
    while True:
        coming, top = _near(gradient, members, inside, tolerance, lowest)
        own = gradient[members]
        going = _where(top - own - lowest[members] > tolerance)
        if not len(going):
            return
        coming = coming[_least(-gradient[coming], min(_WORKING, len(coming)))]
        going = going[_least(own[going], min(_WORKING, len(going)))]
        examples = np.concatenate((members[going], coming))
        within, chosen = inside[examples], np.arange(len(going))
        if not swap(_part(b, examples), gradient[examples], chosen, within, tolerance, lowest[examples]):
            return
        coming, going = coming[within[len(going) :]], going[~within[: len(going)]]
        leaving = members[going]
        _replace(gradient, b, coming, leaving)
        inside[coming], inside[leaving] = True, False
        members[going] = coming


@numba.njit(nogil=True, cache=True)
def _part(b: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """b of some examples (m,) only: (m, m)."""
    part = np.empty((len(examples), len(examples)), b.dtype)
    for i in range(len(examples)):
        row = b[examples[i]]
        for j in range(i + 1):
            part[i, j] = part[j, i] = row[examples[j]]
    return part


@numba.njit(nogil=True, cache=True)
def swap(
    b: np.ndarray, gradient: np.ndarray, members: np.ndarray, inside: np.ndarray, tolerance: float, lowest: np.ndarray
) -> bool:  # fmt: skip
    """Swap one member after another for the outsider of largest gain until none gains; whether any did.

    lowest: float64 (n,), no more than any entry of its row of b. It tells whom an outsider can gain against at all, so
    that most rows need not be read, and of the others a few entries.
    """
    wide = gradient.dtype.type
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
                    gradient[j] += wide(entering[j]) - wide(row[j])
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
    """Those whose gradient is above the floor."""
    return _where((gradient > floor) & ~inside)


@numba.njit(nogil=True, cache=True)
def _least(values: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` lowest of the values (n,) are, in no order."""
    if count in (0, len(values)):
        return np.arange(count)
    if len(values) < _SHORT:
        return np.argsort(values)[:count]
    bound = np.partition(values, count - 1)[count - 1]
    below = _where(values < bound)
    return np.concatenate((below, _where(values == bound)[: count - len(below)]))


@numba.njit(nogil=True, cache=True)
def _where(mask: np.ndarray) -> np.ndarray:
    """Where a mask (n,) holds. Mostly it does nowhere near: eight at a time are passed over; of others none is guessed
    at, since half the guesses of a branch would be wrong.
    """
    found, count = np.empty(len(mask), np.int64), 0
    eights = mask[: len(mask) // 8 * 8].view(np.uint64)
    for i in range(len(eights)):
        if eights[i]:
            for j in range(8 * i, 8 * i + 8):
                found[count] = j
                count += mask[j]
    for j in range(8 * len(eights), len(mask)):
        found[count] = j
        count += mask[j]
    return found[:count]
