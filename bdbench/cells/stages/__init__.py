"""The five stages of defense, a file each: what the harness does with a defense of the stage, and what it measures."""

from __future__ import annotations

from bdbench.cells.stages import inputs, model, repair, training_set, training_time
from bdbench.cells.stages.work import Outcome, Work
from bdbench.errors import BdbenchError

_RUN = {
    "training set": training_set.run,
    "training time": training_time.run,
    "repair": repair.run,
    "inputs": inputs.run,
    "model": model.run,
}
STAGES = tuple(_RUN)

__all__ = ["STAGES", "Outcome", "Work", "run"]


def run(work: Work) -> Outcome:
    """What becomes of a defense in a cell, by its stage. Raises BdbenchError for one of no stage."""
    if work.defense.stage not in _RUN:
        raise BdbenchError(f"defense {work.defense.name!r} is of no stage: expected one of {', '.join(STAGES)}")
    return _RUN[work.defense.stage](work)
