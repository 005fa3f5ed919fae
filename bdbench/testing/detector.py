"""Checks of detectors: defenses that score the training set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bdbench.cells.tools import HarnessTools
from bdbench.components.defenses import Detector
from bdbench.seeds import Streams
from bdbench.testing.checks import NotChecked, check, expect, fitting
from bdbench.testing.kinds import COUNT, expect_scores, expect_sound_results, usual
from bdbench.testing.samples import COLOUR, GREY, Handed, Shape, handed_over, poisoned

# Relative to the spread of the scores: sums in another order end in other last digits.
_TOLERANCE = 1e-4


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
def scores_tell_examples_apart(detector: Detector) -> None:
    """In some sample with poisons, some examples are more suspicious than others.

    One score for all of them ranks nothing: what is removed by it, and its AUROC of one half, are chance's.
    """

    spreads = fitting((GREY, COLOUR), lambda shape: float(np.ptp(usual(detector, shape)["scores"])))
    expect(max(spreads) > 0, "the same score for all examples")


@check("detector")
def flags_are_one_for_each_example(detector: Detector) -> None:
    """What it concludes by ``tools.conclude(flagged=...)`` is bool (n,), True for what it would remove.

    ``--budget auto`` removes just that; indices or scores in its place would remove something else.
    """

    def attempt(shape: Shape) -> None:
        try:
            flagged = usual(detector, shape)["flags"]
        except ValueError as error:
            expect("flagged is" not in str(error), str(error))
            raise
        expect(flagged.shape in ((0,), (COUNT,)), f"{flagged.shape} for n = {COUNT}")

    fitting((GREY, COLOUR), attempt)


@check("detector")
def permuting_the_examples_permutes_the_scores(detector: Detector) -> None:
    """The scores of a detector that draws nothing at random are those of the examples, wherever these are in the set.

    Sets are often sorted, and a method that looks at places finds out what nobody told it. Of detectors that train
    models, or draw from their streams (but those for ties), one seed gives other numbers in another order: they are
    not checked, and it is said.
    """

    def attempt(shape: Shape) -> None:
        data = poisoned(shape, COUNT)
        with handed_over(detector, data) as handed:
            drawn = _watch(handed.tools)
            scores, victim = detector.score(handed.view, handed.tools), handed.tools.victim
            chance = sorted({name for name in drawn if not name.startswith("ties")})
            trained = handed.tools.models_trained
        if chance or trained:
            raise NotChecked(f"it trains {trained} models" if trained else f"it draws from {', '.join(chance)}")
        order = np.random.default_rng(0).permutation(COUNT)
        moved = {name: getattr(data, name)[order] for name in ("images", "labels", "roles", "original_labels")}
        with handed_over(detector, dataclasses.replace(data, **moved), victim=victim) as handed:
            again = detector.score(handed.view, handed.tools)
        margin = _TOLERANCE * np.ptp(scores)
        differing = int((~np.isclose(scores[order], again, rtol=_TOLERANCE, atol=margin)).sum())
        expect(not differing, f"{differing} of {COUNT} scores are others in another order")

    fitting((GREY, COLOUR), attempt)


@dataclass(frozen=True)
class _Watched(Streams):
    drawn: list[str] = field(default_factory=list)

    def _sequence(self, name: str) -> np.random.SeedSequence:
        self.drawn.append(name)
        return super()._sequence(name)

    def child(self, name: str) -> Streams:
        return _Watched(self.seed, (*self.path, name), self.drawn)


def _watch(tools: HarnessTools) -> list[str]:
    """The names of the streams that are drawn from, as they are."""
    streams = _Watched(tools.streams.seed, tools.streams.path)
    tools.streams, tools._shared = streams, streams.child("shared")
    return streams.drawn
