"""Training time: the defense trains on the poisoned set itself; plain training on the same set is the reference."""

from __future__ import annotations

from typing import cast

from bdbench.cells import metrics
from bdbench.cells.stages.work import Outcome, Work
from bdbench.components.defenses import RobustTraining


def run(work: Work) -> Outcome:
    """Train, predict, and compare with the reference."""
    defense = cast(RobustTraining, work.defense)
    reference = work.reference()
    after = work.modelled("train", lambda: defense.train(work.scene.view, work.tools))
    return Outcome(after=after, derived=metrics.rating(reference, after))
