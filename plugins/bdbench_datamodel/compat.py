"""The search that the authors of Khaddaj et al. 2023 released, faults included, for comparison with published results.

Written from its behaviour (github.com/MadryLab/rethinking-backdoor-attacks, compute_scores.py), in which it differs
from ``search``: an outsider's score has the row-sum term with the wrong sign; a swap's gain leaves out what the two
share; the best of at most 100 swaps is taken up even where the objective falls, and the first time that it does not
rise, against 0 in the first round, is the end. Other than the release it is seeded and reads contiguous rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from bdbench_datamodel.search import Cuts, Problem, random_subsets

_SWAPS, _ROUNDS = 100, 100


def sizes(examples: int) -> list[int]:
    """10, 20, 40, ..., 5120, as far as they leave some example out."""
    return [size for size in (10 * 2**i for i in range(10)) if size < examples]


def search(
    problem: Problem,
    size: int,
    starts: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> Cuts:
    """What the released search returns from ``starts`` random subsets of k = ``size``; no local optima.

    Raises ValueError unless 0 < size < n.
    """
    n = len(problem.row_sums)
    members = random_subsets(n, size, starts, rng)
    terms = -size / n * problem.row_sums
    for row in members:
        # The release takes the first k diagonal entries from the objective in place of the members'.
        offset = terms[:size].sum()
        last = 0.0
        for _ in range(_ROUNDS):
            _round(problem.symmetric, terms, row)
            reached = 2 * (problem.objective(row) - offset)
            if reached <= last:
                break
            last = reached
        advance(1)
    return Cuts.of(problem, members)


@numba.njit(nogil=True, cache=True)
def _round(b: np.ndarray, terms: np.ndarray, members: np.ndarray) -> None:
    """Up to 100 swaps of examples that were not yet swapped; ``members`` (k,) becomes the best state on the way."""
    n = len(terms)
    place = np.full(n, -1)
    scores = -terms.copy()
    for i in range(len(members)):
        place[members[i]] = i
        scores[members[i]] += 2 * terms[members[i]]
        scores += b[members[i]]
    swapped = np.zeros(n, np.bool_)
    state, best = members.copy(), members.copy()
    total, highest = 0.0, 0.0
    for _ in range(_SWAPS):
        out, into = -1, -1
        for i in range(n):
            if swapped[i]:
                continue
            if place[i] >= 0:
                if out < 0 or scores[i] < scores[out]:
                    out = i
            elif into < 0 or scores[i] > scores[into]:
                into = i
        if out < 0 or into < 0:
            break
        total += scores[into] - scores[out]
        for i in range(n):
            scores[i] += b[into, i] - b[out, i]
        scores[out] -= 2 * terms[out]
        scores[into] += 2 * terms[into]
        place[into], place[out] = place[out], -1
        state[place[into]] = into
        swapped[out] = swapped[into] = True
        if total > highest:
            highest = total
            best[:] = state
    members[:] = best
