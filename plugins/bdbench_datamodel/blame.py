"""Which group of a class is to blame, where something in the class is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect

# What agreement on a rival, and the spread of rivals, count against what the other part tells.
_AGREEMENT, _SPREAD = 2.5, 0.25
# How much more must speak for the larger part of a class: this where the smaller is so small a share, and nothing where
# they are about as large.
_CLEARLY, _SMALLER, _ALIKE = 0.5, 0.3, 0.45
# What share of a group lies in a larger one that stands for it, and how much less may speak against that.
_NEARLY_ALL, _NEARLY = 0.8, 1.5


def blamed(
    groups: Sequence[Suspects], effects: Sequence[Effect], transfers: Sequence[Transfer], against: np.ndarray
) -> int:
    """The place of the group to blame. against: float64 (groups,), how much speaks against each.

    The one that most speaks against stands for others: a part of the class for the other part (``_of_two_parts``), and
    any for a larger one that nearly all of it lies in and against which nearly as much speaks: the handful that is told
    most sharply may be a tenth of the poisons.
    """
    place = int(against.argmax())
    if groups[place].kind in ("sharpest", "rest") and len(groups) > 1 and groups[1].kind == "rest":
        place = _of_two_parts(groups, effects, transfers)
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


def _of_two_parts(groups: Sequence[Suspects], effects: Sequence[Effect], transfers: Sequence[Transfer]) -> int:
    """Which of a class's first two groups, each the other's rest, is the trigger's: the other has as little to do with
    it. Of parts of unlike size it is the smaller, unless what is said clearly speaks for the larger.
    """
    for_first, for_rest = (_speaks_for(*each) for each in zip(groups[:2], effects[:2], transfers[:2], strict=True))
    share = groups[0].members.mean()
    clearly = _CLEARLY * np.clip((_ALIKE - min(share, 1 - share)) / (_ALIKE - _SMALLER), 0, 1)
    return int(for_rest > for_first + (clearly if share < 0.5 else -clearly))


def _speaks_for(group: Suspects, effect: Effect, transfer: Transfer) -> float:
    """How much speaks for a part of a class to be the trigger's, beside the other part.

    A trigger does what nothing else in the class does: the other part does not tell it. A dirty-label poison is another
    class's example: without its mates networks agree on which, and poisons are of many; and when what they share is
    taken from them, the model under suspicion sees it, too.
    """
    spread = stats.entropy(effect.taken) if effect.taken.any() else 0.0
    return _AGREEMENT * effect.agreement + _SPREAD * spread + transfer.left - group.explained
