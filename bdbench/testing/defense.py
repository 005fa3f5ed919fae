"""Checks of all defenses, on small poisoned sets, with the tools that the harness hands over."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from bdbench.components.defenses import Defense
from bdbench.components.workshop import Oracle
from bdbench.errors import BdbenchError
from bdbench.images.data import PoisonedData, Role
from bdbench.testing.checks import check, expect, expect_alike, expect_repeatable, fitting, unchanged
from bdbench.testing.kinds import COUNT, KINDS, expect_sound_result, kind_of, result, usual, worked
from bdbench.testing.samples import CLASSES, COLOUR, GREY, Shape, handed_over, of_classes, poisoned

_TINY, _TINY_RESERVE = 20, 8


@check("defense")
def is_of_one_stage(defense: Defense) -> None:
    """It is a Detector, RobustTraining, Mitigation, InputDetector or ModelDetector, and of that one's ``stage``.

    The harness asks ``stage`` what to do with it, and tables compare it with those of the same.
    """
    kind = kind_of(defense)
    expect(kind, f"{type(defense).__name__} is none of {', '.join(base.__name__ for base in KINDS.values())}")
    assert kind is not None
    expected = KINDS[kind].stage
    expect(defense.stage == expected, f"stage {defense.stage!r} of a {KINDS[kind].__name__}, which is of {expected!r}")


@check("defense")
def survives_tiny_sets(defense: Defense) -> None:
    """20 examples and 8 clean ones are enough or refused by a BdbenchError, also with labels of one example or none.

    Rare labels are real (traffic signs); a covariance of one example is NaN, and a traceback tells users nothing.
    """
    for shape in (GREY, COLOUR):
        try:
            expect_sound_result(defense, poisoned(shape, _TINY), reserve=_TINY_RESERVE)
        except BdbenchError as error:
            expect("\n" not in str(error), f"an error of several lines: {error}")


@check("defense")
def survives_odd_sets(defense: Defense) -> None:
    """Two classes, a hundred, and images that are all the same are enough or refused by a BdbenchError.

    Outside benchmarks nobody has ten equal classes, and a median over two, or a covariance of what does not vary, is
    easily NaN or a traceback.
    """
    grey = np.full((40, *GREY), 128, np.uint8)
    sets = {
        "two classes": (of_classes(GREY, 2, 20), 2),
        "a hundred classes": (of_classes(GREY, 100, 2), 100),
        "constant images": (dataclasses.replace(poisoned(GREY, 40), images=grey), CLASSES),
    }
    for name, (data, classes) in sets.items():
        try:
            expect_sound_result(defense, data, classes=classes, reserve=2 * classes)
        except BdbenchError as error:
            expect("\n" not in str(error), f"{name}: an error of several lines: {error}")
        except Exception as error:
            expect(False, f"{name}: {type(error).__name__}: {error}")


@check("defense")
def one_seed_gives_one_result(defense: Defense) -> None:
    """The same set and streams give the same result, whatever the global seeds are: draw from ``tools.streams``.

    A run that was stopped goes on where it was and has to end with the same numbers.
    """

    def attempt(shape: Shape) -> None:
        again = functools.partial(result, defense, poisoned(shape, COUNT))
        expect_repeatable(again, "draw from ``tools.streams``", usual(defense, shape))

    fitting((GREY, COLOUR), attempt)


@check("defense")
def goes_on_from_what_it_saved(defense: Defense) -> None:
    """With the pieces of an earlier call (``tools.saved``, ``tools.train``) it gives the same, and concludes the same.

    A run that was stopped finds them. What only making a piece does, such as to call ``tools.conclude``, is not done.
    """

    def attempt(shape: Shape) -> None:
        with tempfile.TemporaryDirectory() as folder:
            first, again = (result(defense, poisoned(shape, COUNT), folder=Path(folder)) for _ in "12")
        expect_alike(first, again, "from the pieces of the first call")

    fitting((GREY, COLOUR), attempt)


@check("defense")
def remembers_nothing(defense: Defense) -> None:
    """The same set gets the same result after another was met in between.

    One process runs many cells; what is left over from one would make the next depend on their order.
    """

    def attempt(shape: Shape) -> None:
        first = usual(defense, shape)
        result(defense, poisoned(shape, COUNT, poison_class=1))
        expect_alike(first, result(defense, poisoned(shape, COUNT)), "the second time")

    fitting((GREY, COLOUR), attempt)


@check("defense")
def leaves_what_it_is_handed_as_it_was(defense: Defense) -> None:
    """The training set, the clean examples and the inputs stay as they were; what is read-only is to stay so.

    Every defense of a run gets the same arrays, and models are trained and measured on them. The victim is a copy.
    """

    def attempt(shape: Shape) -> None:
        with handed_over(defense, poisoned(shape, COUNT)) as handed:
            view, reserve = handed.view, handed.reserve
            arrays = {
                "the images of the view": view.images,
                "the labels of the view": view.labels,
                "the images of the clean set": np.asarray(reserve.images),
                "the labels of the clean set": reserve.labels,
                "the inputs": handed.images,
            }
            with unchanged(arrays):
                worked(defense, handed)
            expect(not (view.images.flags.writeable or view.labels.flags.writeable), "the view was made writeable")

    fitting((GREY, COLOUR), attempt)


@check("defense")
def declares_its_oracles(defense: Defense) -> None:
    """``oracles`` names all that it asks of what a defender does not know, from those that there are.

    A defense that knows the poison rate is no match for one that does not: the tables show who was told what.
    """
    strange = set(defense.told) - set(get_args(Oracle))
    expect(not strange, f"{', '.join(map(repr, sorted(strange)))}: known: {', '.join(get_args(Oracle))}")
    try:
        fitting((GREY, COLOUR), lambda shape: usual(defense, shape))
    except LookupError as error:
        expect("oracle" not in str(error), str(error))
        raise


@check("defense")
def does_not_reach_the_truth(defense: Defense) -> None:
    """The result depends on what it is handed alone: with the same images and labels but other poisons it is the same.

    A defense that looks around in memory for the roles measures nothing. One that declares the oracle ``poisons`` is
    told them, and is shown as a ceiling.
    """
    if "poisons" in defense.told:
        return

    def attempt(shape: Shape) -> None:
        truth = poisoned(shape, COUNT)
        expect_alike(usual(defense, shape), result(defense, _with_other_roles(truth)), "for other roles")

    fitting((GREY, COLOUR), attempt)


def _with_other_roles(truth: PoisonedData) -> PoisonedData:
    """The same images and labels, of which as many others are POISON."""
    others = np.flatnonzero((truth.roles == Role.CLEAN) & (truth.labels == 2))[: int(truth.roles.sum())]
    roles = np.zeros_like(truth.roles)
    roles[others] = Role.POISON
    return dataclasses.replace(truth, roles=roles, original_labels=truth.labels.copy())
