"""Which group of a class is to blame, where something in the class is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect

# What counts for a part of a class to be the trigger's (``_speaks_for``): a logistic law, fitted to such parts of 38
# development sets, and rounded. Only taken for all classes alike are members for a reason of their own: what is less
# counts by its fourth power.
_SPREAD, _POWER, _ADDED, _TURNED, _EXPLAINED = 4.0, 4, 2.5, 3.5, 2.0
# How much more must speak for the larger part of a class: this where the smaller is so small a share, and nothing where
# they are about as large.
_CLEARLY, _SMALLER, _ALIKE = 1.0, 0.3, 0.45
# A share that is turned is not so near to 0 that its logarithm decides alone.
_LEAST_TURNED = 0.02
# What share of a group lies in a larger one that stands for it, and how much less may speak against that.
_NEARLY_ALL, _NEARLY = 0.8, 1.5


def blamed(
    groups: Sequence[Suspects],
    effects: Sequence[Effect],
    transfers: Sequence[Transfer],
    against: np.ndarray,
    knowing: float = 1.0,
) -> int:
    """The place of the group to blame. against: float64 (groups,), how much speaks against each; knowing: how far
    networks know the classes, in [0, 1].

    The one that most speaks against stands for others: a part of the class for the other part (``_of_two_parts``), and
    any for a larger one that nearly all of it lies in and against which nearly as much speaks: the handful that is told
    most sharply may be a tenth of the poisons.
    """
    place = int(against.argmax())
    if groups[place].kind in ("sharpest", "rest") and len(groups) > 1 and groups[1].kind == "rest":
        place = _of_two_parts(groups, effects, transfers, knowing)
    inside = groups[place].members
    around = [place] + [
        other
        for other, group in enumerate(groups)
        if group.kind != "rest"
        and group.members.sum() > inside.sum()
        and group.members[inside].mean() >= _NEARLY_ALL
        and against[other] > against[place] - _NEARLY
    ]
    return max(around, key=lambda other: groups[other].members.sum())


def _of_two_parts(
    groups: Sequence[Suspects], effects: Sequence[Effect], transfers: Sequence[Transfer], knowing: float
) -> int:
    """Which of a class's first two groups, each the other's rest, is the trigger's: the other has as little to do with
    it. Of parts of unlike size it is the smaller, unless what is said clearly speaks for the larger.
    """
    both = zip(groups[:2], effects[:2], transfers[:2], strict=True)
    for_first, for_rest = (_speaks_for(*each, knowing) for each in both)
    share = groups[0].members.mean()
    clearly = _CLEARLY * np.clip((_ALIKE - min(share, 1 - share)) / (_ALIKE - _SMALLER), 0, 1)
    return int(for_rest > for_first + (clearly if share < 0.5 else -clearly))


def _speaks_for(group: Suspects, effect: Effect, transfer: Transfer, knowing: float) -> float:
    """How much speaks for a part of a class to be the trigger's, beside the other part.

    Poisons of wrong labels are of all other classes: without each other they are taken for each of those as often,
    while natural members are taken for what resembles their class. Those whose labels are right (clean-label attacks)
    differ from what they are taken for by the trigger, which turns strangers once it is *added*. Those of one class
    alone turn that class's strangers, for which they are taken; natural members are taken for another. And a trigger
    does what nothing else in the class does: the other part does not tell it.
    """
    possible = max(len(effect.taken) - 1, 2)
    spread = stats.entropy(effect.taken) / np.log(possible) if effect.taken.any() else 0.0
    turned = np.log(transfer.turned(effect.taken, knowing) + _LEAST_TURNED)
    return float(_SPREAD * spread**_POWER + _ADDED * transfer.added + _TURNED * turned - _EXPLAINED * group.explained)
