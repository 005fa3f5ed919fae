"""Checks of detectors, on small poisoned sets, with the tools that the harness hands over."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np

from bdbench.data import PoisonedData, Role
from bdbench.defenses import Detector
from bdbench.testing.checks import check, expect, fitting, global_seed
from bdbench.testing.samples import COLOUR, GREY, handed_over, poisoned

_COUNT, _TINY = 60, 20


def _score(detector: Detector, data: PoisonedData) -> np.ndarray:
    with handed_over(detector, data) as (view, tools):
        return detector.score(view, tools)


def _all_scores(detector: Detector, count: int = _COUNT) -> list[np.ndarray]:
    return fitting((GREY, COLOUR), lambda shape: _score(detector, poisoned(shape, count)))


def _expect_scores(scores: np.ndarray, count: int) -> None:
    expect(isinstance(scores, np.ndarray), f"{type(scores).__name__} instead of an array")
    expect(scores.dtype == np.float64 and scores.shape == (count,), f"{scores.dtype} {scores.shape} for n = {count}")
    broken = int((~np.isfinite(scores)).sum())
    expect(not broken, f"{broken} of {count} scores are NaN or infinite")


def _expect_equal(one: np.ndarray, other: np.ndarray, what: str) -> None:
    # Sums over threads may end in another last digit.
    same = np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-6, atol=1e-12)
    expect(same, what)


@check("detector")
def scores_are_finite_float64(detector: Detector) -> None:
    """``score`` returns float64 (n,), all finite: one number for each example, higher = more suspicious.

    The ranking is over the whole set, and NaN has no place in a ranking: a run would end there, hours in.
    """
    for scores in _all_scores(detector):
        _expect_scores(scores, _COUNT)


@check("detector")
def survives_tiny_sets(detector: Detector) -> None:
    """20 examples are scored or refused by a BdbenchError, also with a label that has one example or none.

    Rare labels are real (traffic signs); a covariance of one example is NaN, and a traceback tells users nothing.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        _expect_scores(_score(detector, poisoned(shape, _TINY)), _TINY)

    fitting((GREY, COLOUR), attempt)


@check("detector")
def one_seed_gives_one_ranking(detector: Detector) -> None:
    """The same view and streams give the same scores, whatever the global seeds are: draw from ``tools.streams``.

    A run that was stopped goes on where it was and has to end with the same numbers.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        results = []
        for seed in (1, 2):
            with global_seed(seed):
                results.append(_score(detector, poisoned(shape, _COUNT)))
        _expect_equal(results[0], results[1], "other scores under another global seed")

    fitting((GREY, COLOUR), attempt)


@check("detector")
def remembers_nothing(detector: Detector) -> None:
    """The same view gets the same scores after another set was scored in between.

    One process runs many cells; what is left over from one would make the next depend on their order.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        first = _score(detector, poisoned(shape, _COUNT))
        _score(detector, poisoned(shape, _COUNT, poison_class=1))
        _expect_equal(first, _score(detector, poisoned(shape, _COUNT)), "other scores the second time")

    fitting((GREY, COLOUR), attempt)


@check("detector")
def leaves_the_view_as_it_was(detector: Detector) -> None:
    """The images and labels of the view stay as they were; they are read-only, and to stay so.

    Every defense of a run gets the same view, and the model after removal is trained on it.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        data = poisoned(shape, _COUNT)
        with handed_over(detector, data) as (view, tools):
            detector.score(view, tools)
            expect(np.array_equal(view.images, data.images), "the images changed")
            expect(np.array_equal(view.labels, data.labels), "the labels changed")
            expect(not (view.images.flags.writeable or view.labels.flags.writeable), "the arrays were made writeable")

    fitting((GREY, COLOUR), attempt)


@check("detector")
def declares_its_oracles(detector: Detector) -> None:
    """``oracles`` names all that it asks of the attacker's knowledge, from those that there are.

    A detector that knows the poison rate is no match for one that does not: the tables show who was told what.
    """
    strange = set(detector.oracles) - set(get_args(Oracle))
    expect(not strange, f"{', '.join(map(repr, sorted(strange)))}: known: {', '.join(get_args(Oracle))}")
    try:
        _all_scores(detector)
    except LookupError as error:
        expect("oracle" not in str(error), str(error))
        raise


@check("detector")
def does_not_reach_the_truth(detector: Detector) -> None:
    """The scores depend on the view alone: with the same images and labels but other poisons they are the same.

    A detector that looks around in memory for the roles measures nothing.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        truth = poisoned(shape, _COUNT)
        first = _score(detector, truth)
        others = np.flatnonzero((truth.roles == Role.CLEAN) & (truth.labels == 2))[: int(truth.roles.sum())]
        roles = np.zeros_like(truth.roles)
        roles[others] = Role.POISON
        truth = dataclasses.replace(truth, roles=roles, original_labels=truth.labels.copy())
        _expect_equal(first, _score(detector, truth), "other scores for other roles")

    fitting((GREY, COLOUR), attempt)
