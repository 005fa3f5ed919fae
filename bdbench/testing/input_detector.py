"""Checks of input detectors: defenses that score what a model is asked about."""

from __future__ import annotations

from typing import Any

import numpy as np

from bdbench.components.defenses import InputDetector
from bdbench.testing.checks import check, expect, fitting
from bdbench.testing.kinds import COUNT, expect_scores, expect_sound_results
from bdbench.testing.samples import COLOUR, GREY, Handed, Shape, handed_over, poisoned

# Relative to the spread of the scores: sums over another batch end in other last digits.
_TOLERANCE = 1e-4


def work(detector: InputDetector, handed: Handed) -> dict[str, Any]:
    """Its scores, and what it fitted."""
    state = detector.fit(handed.tools)
    fitted = {f"fitted {name}": array for name, array in state.items()}
    return {"scores": detector.score(handed.images, state, handed.tools), **fitted}


def sound(made: dict[str, Any], handed: Handed) -> None:
    """One finite number for each input, and plain arrays."""
    expect_scores(made["scores"], len(handed.images))
    for name, array in made.items():
        plain = isinstance(array, np.ndarray) and array.dtype != object
        expect(plain, f"{name} is {getattr(array, 'dtype', type(array).__name__)}: expected a plain array")


@check("input_detector")
def scores_are_finite_float64(detector: InputDetector) -> None:
    """``fit`` returns plain arrays; ``score`` returns float64 (m,), all finite, higher = more suspicious.

    What was fitted is kept on disk as arrays; and NaN is neither above nor below the threshold of refusal.
    """
    expect_sound_results(detector)


@check("input_detector")
def an_input_is_scored_alone_as_in_a_batch(detector: InputDetector) -> None:
    """The score of an image does not depend on those beside it, nor on its place among them.

    In use inputs come one by one. Who looks at the whole batch sees how many are alike, which nobody can in use.
    """

    def attempt(shape: Shape) -> None:
        with handed_over(detector, poisoned(shape, COUNT)) as handed:
            images, tools = handed.images, handed.tools
            state = detector.fit(tools)
            whole = detector.score(images.copy(), state, tools)
            back = detector.score(images[::-1].copy(), state, tools)[::-1]
            alone = np.concatenate([detector.score(images[i : i + 1].copy(), state, tools) for i in range(len(images))])
        margin = _TOLERANCE * np.ptp(whole)
        for other, how in ((alone, "alone"), (back, "in another order")):
            differing = int((~np.isclose(whole, other, rtol=_TOLERANCE, atol=margin)).sum())
            expect(not differing, f"{differing} of {len(images)} scores are others {how}")

    fitting((GREY, COLOUR), attempt)
