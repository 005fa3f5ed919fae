"""Test time: the images that the model is asked about are scored, and the suspicious ones refused."""

from __future__ import annotations

import time
from typing import cast

import numpy as np

from bdbench.cells import metrics, returned
from bdbench.cells.stages.work import Outcome, Work
from bdbench.components.defenses import InputDetector
from bdbench.components.workshop import State


def run(work: Work) -> Outcome:
    """Fit, score clean and challenged inputs in one shuffled heap, refuse, and compare with the victim."""
    scene, defense = work.scene, cast(InputDetector, work.defense)
    n, attacked = len(scene.images.test.labels), scene.attacked

    def scored() -> State:
        state = defense.fit(work.tools)
        heap = _heap(work)
        order = scene.streams("inputs").permutation(len(heap))
        start = time.perf_counter()
        shuffled = returned.scores(defense, defense.score(heap[order], state, work.tools), len(heap))
        seconds = (time.perf_counter() - start) / len(heap)
        scores = np.empty(len(heap))
        scores[order] = shuffled
        told = {"seconds_per_input": np.array(seconds), "handed": np.array(work.tools.handed)}
        return {"scores": scores, **told}

    made = work.kept("score", scored, asked=True)
    clean, challenged, reserve = np.split(made["scores"], [n, n + len(attacked)])
    predicted, answered = work.models.predictions(work.models.victim)
    obeyed = attacked
    if scene.challenge is not None and answered is not None:
        obeyed = scene.challenge.obeyed(answered, scene.images.test.labels)
    after, refused = None, None
    # An image that the challenge shows as it is counts as attacked, and not as clean as well.
    own = slice(None) if work.models.shown is None else ~work.models.shown
    if len(reserve):
        limit = metrics.refusal_threshold(metrics.unseen(reserve, int(made.get("handed", 0))))
        chance = scene.streams("refused of equal scores")
        of_clean, of_challenged = limit.refused(clean, chance), limit.refused(challenged, chance)
        after = work.models.measured(
            np.where(of_clean, metrics.REFUSED, predicted),
            None if answered is None else np.where(of_challenged, metrics.REFUSED, answered),
        )
        refused = of_clean[own], of_challenged
    found = metrics.inputs(clean[own], challenged, attacked, obeyed, refused, float(made["seconds_per_input"]))
    return Outcome(
        after=after,
        inputs=found,
        derived=metrics.rating(work.models.before, after),
        arrays={"clean_scores": clean, "challenge_scores": challenged, "reserve_scores": reserve},
    )


def _heap(work: Work) -> np.ndarray:
    """The test images, the challenge's and the reserve's, one after another."""
    scene = work.scene
    parts = [scene.images.test.images]
    parts += [] if scene.challenge is None else [scene.challenge.images]
    parts += [] if scene.images.reserve is None else [scene.images.reserve.images]
    return np.concatenate([np.asarray(part) for part in parts])
