"""Training set: examples are scored, the most suspicious are removed, and what is left is trained on."""

from __future__ import annotations

from typing import cast

import numpy as np

from bdbench.cells import metrics, returned
from bdbench.cells.stages.work import Outcome, Work
from bdbench.components.defenses import Detector
from bdbench.errors import BdbenchError
from bdbench.storage.record import BY_DECISION, Decision, Performance

# With fewer examples there is nothing to train on.
_FEWEST = 2


def run(work: Work) -> Outcome:
    """Score; remove the budget and train again; the same for what the defense itself flags, if it says."""
    scene, defense = work.scene, cast(Detector, work.defense)
    roles, n = scene.poisoned.roles, len(scene.view.labels)
    made = work.kept("score", lambda: {"scores": returned.scores(defense, defense.score(scene.view, work.tools), n)})
    scores, flagged, budget = made["scores"], made.get("flagged"), scene.setting.budget
    if budget == "auto" and flagged is None:
        raise BdbenchError(
            f"budget=auto is not allowed: defense {defense.name!r} flags nothing itself; expected a share"
        )
    ranking = metrics.rank(scores, scene.streams("ties"))
    share = None if budget == "auto" else budget
    arrays = {"scores": scores}
    base, after = work.reference() if budget else work.models.before, None
    if share:
        arrays["kept"] = ~metrics.flagged(ranking, share)
        after = work.retrained(arrays["kept"], "retrain")
    decision = None
    if flagged is not None:
        arrays["flagged"] = flagged
        decision = _decided(work, flagged, base, trains=bool(budget))
    return Outcome(
        after=after,
        detection=metrics.detection(scores, ranking, roles, share),
        decision=decision,
        derived=metrics.rating(base, after),
        arrays=arrays,
    )


def _decided(work: Work, flagged: np.ndarray, base: Performance, trains: bool) -> Decision:
    """What becomes of the model if the defense has its way. Where it flags nothing, that is the reference.

    Where it leaves nothing to train on there is no model: that counts as one that refuses every image, since without a
    number the seed would be missing in the means.
    """
    after: Performance | None = None
    if trains and not flagged.any():
        after = base
    elif trains and (~flagged).sum() >= _FEWEST:
        after = work.retrained(~flagged, BY_DECISION)
    elif trains:
        after = work.models.none
    return metrics.decision(flagged, work.scene.poisoned.roles, base, after)
