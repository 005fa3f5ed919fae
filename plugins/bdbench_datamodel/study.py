"""A finished run of the detector looked at again, with the truth: its matrix, and the strength of its features."""

from __future__ import annotations

import numpy as np

from bdbench import BdbenchError, Reopened, ReportSection, Role
from bdbench_datamodel import strength
from bdbench_datamodel.detector import Datamodel
from bdbench_datamodel.plan import Plan
from bdbench_datamodel.strength import Strength

# A matrix of more examples takes more memory than a picture is worth.
_LARGEST = 12_000


def ensemble(run: Reopened) -> tuple[np.ndarray, np.ndarray]:
    """Subsets, bool (m, n), and margins, float32 (m, n), of the run; trained again where they are gone.

    Raises BdbenchError for a run of another defense, or of one that trained no ensemble.
    """
    if not isinstance(run.defense, Datamodel):
        raise BdbenchError(f"run {run.record.id} is one of {run.defense.name}: expected a run of datamodel")
    if not run.defense.trains_ensemble:
        source = "read its matrix from a file" if run.defense.matrix is not None else "used estimator=trak"
        raise BdbenchError(f"run {run.record.id} {source}: expected one that trained an ensemble on subsets")
    tools = run.tools()
    return Plan.of(run.defense, run.view, tools.precision).train(run.view, tools)


def strengths(run: Reopened) -> list[Strength]:
    """The trigger's strength, if there is one, and that of natural groups: see ``strength.natural_groups``."""
    return measured(run, *ensemble(run))


def measured(run: Reopened, masks: np.ndarray, margins: np.ndarray) -> list[Strength]:
    """``strengths`` by the subsets and margins of ``ensemble``."""
    roles, labels = run.poisoned.roles, run.view.labels
    tools = run.tools()
    poisons = np.flatnonzero(roles == Role.POISON)
    # Without a trigger: groups of the size that a common rate of poisons would have.
    size = len(poisons) or max(2, round(0.05 * len(labels)))
    features = run.victim().features(run.view.images)
    groups = strength.natural_groups(features, labels, roles == Role.CLEAN, size, tools.streams("groups"))
    if len(poisons):
        groups.insert(0, ("trigger", "trigger", poisons))
    return strength.measure(masks, margins, groups, tools.track(len(groups), "strength"))


def sections(run: Reopened) -> list[ReportSection]:
    """The detector's pictures for ``bdbench report``."""
    from bdbench_datamodel import pictures
    from bdbench_datamodel.estimators import difference_of_means

    if not isinstance(run.defense, Datamodel) or not run.defense.trains_ensemble:
        return []
    masks, margins = ensemble(run)
    found = measured(run, masks, margins)
    made = [ReportSection("Feature strength", pictures.strengths(found), strength.verdict(found))]
    if run.scores is not None and len(run.scores) <= _LARGEST:
        weights = difference_of_means(masks, margins)
        caption = "Groups that support each other are red blocks on the diagonal; a backdoor's is at its class's start."
        picture = pictures.matrix(weights, run.view.labels, run.scores)
        made.insert(0, ReportSection("The matrix W (difference of means, out of sample)", picture, caption))
    return made
