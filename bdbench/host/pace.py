"""How long work takes on this machine, by a look at a part of it. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

# Seconds that a look at the pace takes, at the least; and in which a single step tells it well enough.
_LOOK, _SLOW = 0.1, 2.0
# Nothing does so many steps in less than a look: work that seems to has ended before.
_TOO_MANY = 10_000_000


def seconds_each(work: Callable[[int], object]) -> float:
    """The seconds of a step of ``work``, which does as many as it is told: of some more than one, or of a slow one.

    So what comes once for all steps is not counted with each. Work may end before, as a search does that has converged:
    then a step is what it took while it was done.
    """

    def taken(steps: int) -> float:
        start = time.perf_counter()
        work(steps)
        return time.perf_counter() - start

    # What libraries do when they are first used is no pace: it may be ten seconds.
    taken(1)
    few, more, dearest = taken(1), 8, 0.0
    if few >= _SLOW:
        return few
    while more < _TOO_MANY:
        many = taken(1 + more)
        each = max(many - few, 0.0) / more
        if many - few >= _LOOK or many >= _SLOW:
            return max(each, dearest)
        # In less than that a pause of the machine would count.
        if many - few >= _LOOK / 10:
            dearest = max(dearest, each)
        more *= 4
    return dearest


def clock(seconds: float) -> str:
    """Whole seconds as hours, minutes and seconds: ``0:01:10``."""
    return str(timedelta(seconds=round(seconds)))


def shown(seconds: float) -> str:
    """Seconds for a person: ``2.5 s``, ``0:01:10``."""
    return f"{seconds:.2g} s" if seconds < 10 else clock(seconds)
