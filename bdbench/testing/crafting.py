"""Checks of what attacks depend on: what they craft, their streams, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bdbench.components.attacks import Attack, SourceSpecific, TriggerAttack
from bdbench.errors import BdbenchError
from bdbench.images.data import Role
from bdbench.networks.training import Victim
from bdbench.testing.checks import check, elsewhere, expect, expect_alike, expect_repeatable, fitting, unchanged
from bdbench.testing.samples import Shape
from bdbench.testing.trials import CLASSES, SHAPES, columns, crafted, images_of, made, rows, settled, tried

_REMEDY = "draw from ``tools.streams``"
_SEEDS = range(4)
_DRAWN = range(12)


@check("attack")
def crafts_plain_arrays_the_same_twice(attack: Attack) -> None:
    """``craft`` returns plain arrays by name, and from the same streams the same ones, whatever the global seeds are.

    They are kept on disk, and made anew on another machine: the trigger of the test must be that of the training.
    """

    def attempt(shape: Shape) -> None:
        def again() -> dict[str, Any]:
            with tried(attack, images_of(shape)) as trial:
                return dict(trial.state)

        first = crafted(attack, shape)
        for name, array in first.items():
            plain = isinstance(array, np.ndarray) and array.dtype != object
            expect(plain, f"{name} is {getattr(array, 'dtype', type(array).__name__)}: expected a plain array")
        expect_repeatable(again, _REMEDY, first)

    fitting(SHAPES, attempt)


@check("attack")
def state_and_streams_say_all(attack: Attack) -> None:
    """``poison`` and ``challenge`` change with what was crafted and the streams alone: not with global seeds, the time,
    or which of them is called first.

    Both are called again in every process that goes on with a run, and what comes must be what was trained on.
    """

    def attempt(shape: Shape) -> None:
        state = crafted(attack, shape)
        results = []
        for seed, poison_first in ((1, True), (2, False)):
            with elsewhere(seed), tried(attack, images_of(shape), state=dict(state)) as trial:
                parts = [trial.poison, trial.challenge]
                one, other = [part() for part in (parts if poison_first else parts[::-1])]
                poisoned, challenge = (one, other) if poison_first else (other, one)
            results.append({**columns(poisoned), **rows(challenge)})  # type: ignore[arg-type]
        expect_alike(results[0], results[1], f"under other global seeds, at another time, in another order: {_REMEDY}")

    fitting(SHAPES, attempt)


@check("attack")
def another_seed_poisons_other_examples(attack: Attack) -> None:
    """Another seed chooses other examples to poison, where there is a choice.

    Tables give intervals over seeds: with one fixed choice they would be too narrow to be true.
    """

    def attempt(shape: Shape) -> None:
        def touched(seed: int) -> np.ndarray:
            one = made(attack, shape, seed)
            return np.unique(one.origin[one.poisoned.roles != Role.CLEAN])

        first, labels = touched(_SEEDS[0]), images_of(shape).train.labels
        choice = np.setdiff1d(np.flatnonzero(np.isin(labels, labels[first])), first)
        differ = (not np.array_equal(first, touched(seed)) for seed in _SEEDS[1:])
        expect(not len(choice) or any(differ), "the same examples for seeds 0, 1, 2 and 3")

    fitting(SHAPES, attempt)


@check("attack")
def leaves_what_it_is_handed_as_it_was(attack: Attack) -> None:
    """The images and labels that ``craft``, ``poison`` and ``challenge`` are given stay as they were, and the state.

    The same arrays are the clean test set, the control, and the next attack's input.
    """

    def attempt(shape: Shape) -> None:
        images = images_of(shape)
        given = {
            "the images of the training set": np.asarray(images.train.images),
            "the labels of the training set": images.train.labels,
            "the images of the test set": np.asarray(images.test.images),
            "the labels of the test set": images.test.labels,
        }
        with unchanged(given), tried(attack, images) as trial, unchanged(trial.state):
            trial.poison()
            trial.challenge()

    fitting(SHAPES, attempt)


@check("attack")
def hands_over_a_victim_if_it_trains(attack: Attack) -> None:
    """``victim`` gives a Victim if ``trains`` is True, the same from the same state.

    Where an attacker trains the model himself, nobody else can; None leaves it to the harness.
    """

    def attempt(shape: Shape) -> None:
        images = images_of(shape)
        with tried(attack, images, state=crafted(attack, shape)) as trial:
            found = [trial.attack.victim(trial.state, trial.tools) for _ in "12"]
        for victim in found:
            wanted = isinstance(victim, Victim) or (victim is None and not attack.trains)
            expect(wanted, f"{type(victim).__name__} where trains = {attack.trains}")
        logits = [v.logits(np.asarray(images.test.images)) for v in found if v is not None]
        if logits:
            expect(logits[0].shape[1] == CLASSES, f"logits of shape {logits[0].shape} where K = {CLASSES}")
            expect_alike({"logits": logits[0]}, {"logits": logits[-1]}, "the second time")

    fitting(SHAPES, attempt)


@check("attack")
def refuses_a_target_that_is_not_there(attack: Attack) -> None:
    """A ``target`` beyond the set's labels is refused by a BdbenchError of one line.

    It becomes ``bdbench: ...`` and exit code 2; any other exception is a traceback for the user.
    """
    if not hasattr(attack, "target"):
        return
    wrong = dataclasses.replace(attack, target=CLASSES)  # type: ignore[call-arg]
    for shape in SHAPES:
        try:
            made(wrong, shape)
        except BdbenchError as error:
            expect("\n" not in str(error), f"an error of several lines: {error}")
        else:
            expect(False, f"target={CLASSES} was accepted for labels 0..{CLASSES - 1}")


@check("attack")
def draws_its_target_from_the_seed(attack: Attack) -> None:
    """With ``target=seed`` a trigger attack has a target in 0..K-1 when settled: one for a seed, others for others.

    A target that is the same in every run is one sample of ten: its luck would be in no interval.
    """
    if not isinstance(attack, TriggerAttack):
        return
    # A source that is fixed may be the target that is drawn.
    free = ("target", "source") if isinstance(attack, SourceSpecific) else ("target",)
    values: dict[str, Any] = dict.fromkeys(free, "seed")
    asked = dataclasses.replace(attack, **values)
    drawn = [[settled(asked, CLASSES, seed).target for seed in _DRAWN] for _ in "12"]
    expect(all(t != "seed" and 0 <= t < CLASSES for t in drawn[0]), f"targets {drawn[0]} where K = {CLASSES}")
    expect(drawn[0] == drawn[1], "other targets for the same seeds")
    expect(len(set(drawn[0])) > 1, f"target={drawn[0][0]} for every seed")
