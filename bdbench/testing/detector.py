"""Checks of detectors: defenses that score the training set."""

from __future__ import annotations

from typing import Any

from bdbench.defenses import Detector
from bdbench.testing.checks import check, expect, fitting
from bdbench.testing.kinds import COUNT, expect_scores, expect_sound_results
from bdbench.testing.samples import COLOUR, GREY, Handed, Shape, handed_over, poisoned


def work(detector: Detector, handed: Handed) -> dict[str, Any]:
    """Its scores."""
    return {"scores": detector.score(handed.view, handed.tools)}


def sound(made: dict[str, Any], handed: Handed) -> None:
    """One finite number for each example."""
    expect_scores(made["scores"], len(handed.view.labels))


@check("detector")
def scores_are_finite_float64(detector: Detector) -> None:
    """``score`` returns float64 (n,), all finite: one number for each example, higher = more suspicious.

    The ranking is over the whole set, and NaN has no place in a ranking: a run would end there, hours in.
    """
    expect_sound_results(detector)


@check("detector")
def flags_are_one_for_each_example(detector: Detector) -> None:
    """What it concludes by ``tools.conclude(flagged=...)`` is bool (n,), True for what it would remove.

    ``--budget auto`` removes just that; indices or scores in its place would remove something else.
    """

    def attempt(shape: Shape) -> None:
        with handed_over(detector, poisoned(shape, COUNT)) as handed:
            try:
                detector.score(handed.view, handed.tools)
            except ValueError as error:
                expect("flagged is" not in str(error), str(error))
                raise
            flagged = handed.tools.flagged
        if flagged is not None:
            expect(flagged.shape == (COUNT,), f"{flagged.shape} for n = {COUNT}")

    fitting((GREY, COLOUR), attempt)
