"""The model: is there a backdoor in it? What a verdict is worth is seen over attacked and clean models together."""

from __future__ import annotations

from typing import cast

import numpy as np

from bdbench.cells import returned
from bdbench.cells.stages.work import Outcome, Work
from bdbench.components.defenses import ModelDetector
from bdbench.components.workshop import State
from bdbench.storage.record import Judgement, names_tell


def run(work: Work) -> Outcome:
    """Inspect, and compare the targets that it names with the attacker's."""
    scene, defense = work.scene, cast(ModelDetector, work.defense)

    def inspected() -> State:
        verdict = returned.verdict(defense, defense.inspect(work.tools), scene.images.num_classes)
        if verdict.p_value is not None:
            work.tools.conclude(verdict.p_value)
        return {
            "score": np.array(float(verdict.score)),
            "suspected": np.array(bool(verdict.flagged)),
            "targets": np.array(sorted(verdict.targets), np.int64),
        }

    made = work.kept("inspect", inspected)
    targets, true = made["targets"].tolist(), set(scene.targets)
    tells = names_tell(len(true), scene.images.num_classes)
    hit = bool(set(targets) <= true) if targets and tells else None
    return Outcome(verdict=Judgement(float(made["score"]), bool(made["suspected"]), targets, hit))
