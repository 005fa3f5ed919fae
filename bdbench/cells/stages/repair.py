"""After training: the victim is repaired, without its training set, and compared with what it was."""

from __future__ import annotations

from typing import cast

from bdbench.cells import metrics
from bdbench.cells.stages.work import Outcome, Work
from bdbench.components.defenses import Mitigation


def run(work: Work) -> Outcome:
    """Repair, predict, and compare with the victim."""
    defense = cast(Mitigation, work.defense)
    after = work.modelled("repair", lambda: defense.repair(work.tools))
    return Outcome(after=after, derived=metrics.rating(work.models.before, after))
