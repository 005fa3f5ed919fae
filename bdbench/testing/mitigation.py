"""Checks of mitigations, on small poisoned sets, with the tools that the harness hands over."""

from __future__ import annotations

import numpy as np

from bdbench.data import PoisonedData
from bdbench.defenses import Mitigation
from bdbench.testing.checks import check, expect, fitting, global_seed
from bdbench.testing.samples import CLASSES, COLOUR, GREY, handed_over, poisoned
from bdbench.training import Victim

_COUNT = 60


def _repair(mitigation: Mitigation, data: PoisonedData) -> Victim:
    with handed_over(mitigation, data) as (view, tools):
        return mitigation.repair(view, tools)


@check("mitigation")
def returns_a_model_of_the_victims_architecture(mitigation: Mitigation) -> None:
    """``repair`` returns a Victim with finite weights of the victim's names and shapes, from ``tools``.

    The harness keeps the weights and builds the network again from the architecture; others do not fit in.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        data = poisoned(shape, _COUNT)
        with handed_over(mitigation, data) as (view, tools):
            wanted = {name: array.shape for name, array in tools.victim.arrays().items()}
            repaired = mitigation.repair(view, tools)
        expect(isinstance(repaired, Victim), f"{type(repaired).__name__} instead of a Victim")
        arrays = repaired.arrays()
        found = {name: array.shape for name, array in arrays.items()}
        expect(found == wanted, f"other arrays: {sorted(set(found.items()) ^ set(wanted.items()))}")
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        expect(not broken, f"NaN or infinite values in {', '.join(broken)}")
        logits = repaired.logits(data.images)
        expect(logits.shape == (_COUNT, CLASSES), f"logits of shape {logits.shape}")

    fitting((GREY, COLOUR), attempt)


@check("mitigation")
def one_seed_gives_one_model(mitigation: Mitigation) -> None:
    """The same view and streams give the same model, whatever the global seeds are: draw from ``tools.streams``.

    A run that was stopped goes on where it was and has to end with the same numbers.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        data = poisoned(shape, _COUNT)
        logits = []
        for seed in (1, 2):
            with global_seed(seed):
                logits.append(_repair(mitigation, data).logits(data.images))
        expect(np.allclose(logits[0], logits[1], rtol=1e-5, atol=1e-6), "another model under another global seed")

    fitting((GREY, COLOUR), attempt)


@check("mitigation")
def leaves_the_view_as_it_was(mitigation: Mitigation) -> None:
    """The images and labels of the view stay as they were; they are read-only, and to stay so.

    Every defense of a run gets the same view.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        data = poisoned(shape, _COUNT)
        with handed_over(mitigation, data) as (view, tools):
            mitigation.repair(view, tools)
            expect(np.array_equal(view.images, data.images), "the images changed")
            expect(np.array_equal(view.labels, data.labels), "the labels changed")

    fitting((GREY, COLOUR), attempt)
