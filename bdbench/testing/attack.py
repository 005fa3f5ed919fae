"""Checks of attacks, on a grey and a colour set of 200 images in ten classes."""

from __future__ import annotations

import dataclasses

import numpy as np

from bdbench.attacks import Attack
from bdbench.data import PoisonedData, Role, Split
from bdbench.errors import BdbenchError
from bdbench.seeds import Streams
from bdbench.testing.checks import check, expect, fitting, global_seed
from bdbench.testing.samples import COLOUR, GREY, split

_CLASSES, _COUNT = 10, 200
_LABELS = np.arange(_CLASSES)


def _poison(attack: Attack, train: Split, seed: int = 0) -> PoisonedData:
    return attack.poison(train, _CLASSES, Streams(seed).child("attack"))


def _sets(attack: Attack) -> list[tuple[Split, PoisonedData]]:
    """The sample sets that fit the attack, before and after it."""
    samples = [split(shape, _CLASSES, _COUNT) for shape in (GREY, COLOUR)]
    return fitting(samples, lambda train: (train, _poison(attack, Split(np.array(train.images), train.labels.copy()))))


def _triggered(attack: Attack) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sample images that fit the attack, before and after its trigger."""
    images = [np.array(split(shape, _CLASSES, _COUNT).images) for shape in (GREY, COLOUR)]
    return fitting(images, lambda x: (x, attack.trigger(x.copy(), Streams(0).child("attack"))))


def _same(one: PoisonedData, other: PoisonedData) -> bool:
    names = [field.name for field in dataclasses.fields(PoisonedData)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@check("attack")
def poisons_into_arrays_of_the_declared_types(attack: Attack) -> None:
    """``poison`` returns images uint8 (n, H, W, C), labels int64 (n,), roles int8 (n,), original_labels int64 (n,).

    What is stored is what is trained on: floats would be rounded on the way, and another n would shift the truth
    against the images.
    """
    for train, made in _sets(attack):
        types = {"images": np.uint8, "labels": np.int64, "roles": np.int8, "original_labels": np.int64}
        for name, dtype in types.items():
            array = getattr(made, name)
            shape = np.asarray(train.images).shape if name == "images" else (_COUNT,)
            expect(array.dtype == dtype and array.shape == shape, f"{name} of {array.dtype} {array.shape}")


@check("attack")
def labels_are_in_range(attack: Attack) -> None:
    """All labels after poisoning are among the set's own, 0..K-1.

    The network has K outputs; any other label ends the training with an index error far from its cause.
    """
    for _, made in _sets(attack):
        low, high = made.labels.min(), made.labels.max()
        expect(0 <= low <= high < _CLASSES, f"labels in {low}..{high} where K = {_CLASSES}")


@check("attack")
def roles_tell_the_truth(attack: Attack) -> None:
    """An example is CLEAN exactly if neither image nor label changed; COVER keeps its label; nothing else exists.

    Detection is scored against the roles: a changed example that is called clean counts as a false alarm.
    """
    for train, made in _sets(attack):
        moved = (made.images != train.images).any((1, 2, 3))
        relabelled = made.labels != train.labels
        clean, cover = made.roles == Role.CLEAN, made.roles == Role.COVER
        expect(np.isin(made.roles, list(Role)).all(), f"roles {sorted(set(made.roles.tolist()) - set(Role))}")
        wrong = int((clean & (moved | relabelled)).sum())
        expect(not wrong, f"{wrong} examples are CLEAN but changed")
        wrong = int((~clean & ~moved & ~relabelled).sum())
        expect(not wrong, f"{wrong} examples are POISON or COVER but did not change")
        wrong = int((cover & relabelled).sum())
        expect(not wrong, f"{wrong} COVER examples changed their label")


@check("attack")
def original_labels_are_those_of_the_set(attack: Attack) -> None:
    """``original_labels`` are the labels before the attack, in the order of the set.

    Robust accuracy, and every export to another benchmark, needs to know what an image really shows.
    """
    for train, made in _sets(attack):
        wrong = int((made.original_labels != train.labels).sum())
        expect(not wrong, f"{wrong} of {_COUNT} differ")


@check("attack")
def poisons_are_as_many_as_the_rate_says(attack: Attack) -> None:
    """There are ``round(rate * n)`` POISON examples of n, if the attack has a ``rate``; without a goal there are none.

    Peers disagree on what a rate is a rate of; here it is of the whole training set, or tables cannot be compared.
    """
    for _, made in _sets(attack):
        found = int((made.roles == Role.POISON).sum())
        if attack.goal(_LABELS) is None:
            expect(found == 0, f"{found} poisons of an attack whose goal is None")
        elif hasattr(attack, "rate"):
            asked = round(attack.rate * _COUNT)
            expect(found == asked, f"{found} poisons of {_COUNT} at rate={attack.rate:g}, which asks for {asked}")
        else:
            expect(found > 0, "no poisons at all")


@check("attack")
def poisons_teach_the_goal(attack: Attack) -> None:
    """The label a POISON is trained with is the attack's ``goal`` for its original label.

    Attack success is counted against the goal: one that was never taught looks like a defense that works.
    """
    for _, made in _sets(attack):
        poisons = made.roles == Role.POISON
        goal = attack.goal(made.original_labels)
        if goal is not None:
            wrong = int((made.labels[poisons] != goal[poisons]).sum())
            expect(not wrong, f"{wrong} of {int(poisons.sum())} poisons have another label")


@check("attack")
def clean_label_changes_no_label(attack: Attack) -> None:
    """With ``clean_label = True`` no label changes; with ``clean_label = False`` every POISON changes its label.

    A person who inspects a clean-label set finds no wrong label; the two kinds are tabled apart for that.
    """
    clean_label = getattr(attack, "clean_label", None)
    for _, made in _sets(attack) if clean_label is not None else []:
        changed = made.labels != made.original_labels
        if clean_label:
            expect(not changed.any(), f"{int(changed.sum())} labels changed")
        else:
            kept = int((~changed[made.roles == Role.POISON]).sum())
            expect(not kept, f"{kept} poisons keep their label")


@check("attack")
def goal_is_a_label_for_every_label(attack: Attack) -> None:
    """``goal`` maps int64 (n,) to int64 (n,) in 0..K-1, or to None for an attack that attacks nothing.

    It is asked for all test labels, and for a single one to name the target.
    """
    for labels in (_LABELS, _LABELS[:1], _LABELS[::-1].repeat(2)):
        goal = attack.goal(labels.copy())
        if goal is None:
            expect(attack.goal(_LABELS) is None, "None for some labels only")
            continue
        expect(isinstance(goal, np.ndarray), f"{type(goal).__name__} instead of an array")
        expect(goal.dtype == np.int64 and goal.shape == labels.shape, f"{goal.dtype} {goal.shape} for {labels.shape}")
        expect(0 <= goal.min() <= goal.max() < _CLASSES, f"labels in {goal.min()}..{goal.max()} where K = {_CLASSES}")


@check("attack")
def trigger_keeps_type_and_shape(attack: Attack) -> None:
    """``trigger`` maps uint8 (n, H, W, C) to new uint8 images of that shape.

    The victim takes uint8; and images that share memory with the clean ones would be changed along with them.
    """
    for images, stamped in _triggered(attack):
        expect(stamped.dtype == np.uint8 and stamped.shape == images.shape, f"{stamped.dtype} {stamped.shape}")
        again = attack.trigger(images, Streams(0).child("attack"))
        expect(not np.shares_memory(images, again), "the images that came in, not new ones")


@check("attack")
def trigger_changes_images(attack: Attack) -> None:
    """``trigger`` changes most images, unless the goal is None.

    A trigger that does nothing has a success rate of nothing, which a table cannot tell from a good defense.
    """
    for images, stamped in _triggered(attack):
        changed = float((images != stamped).any((1, 2, 3)).mean())
        if attack.goal(_LABELS) is not None:
            expect(changed > 0.5, f"{100 * changed:.0f} % of the images changed")


@check("attack")
def leaves_its_input_as_it_was(attack: Attack) -> None:
    """The images and labels that ``poison``, ``trigger`` and ``goal`` are given stay as they were.

    The same arrays are the clean test set, the control, and the next attack's input.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        train, labels = split(shape, _CLASSES, _COUNT), _LABELS.copy()
        images = np.asarray(train.images)
        kept = images.copy(), train.labels.copy()
        _poison(attack, train)
        same = np.array_equal(images, kept[0]) and np.array_equal(train.labels, kept[1])
        expect(same, "poison() changed the training set in place")
        attack.trigger(images, Streams(0).child("attack"))
        expect(np.array_equal(images, kept[0]), "trigger() changed the images in place")
        attack.goal(labels)
        expect(np.array_equal(labels, _LABELS), "goal() changed the labels in place")

    fitting((GREY, COLOUR), attempt)


@check("attack")
def one_seed_gives_one_attack(attack: Attack) -> None:
    """The same streams give the same poisoned set and the same triggered images, whatever the global seeds are.

    A run that was stopped goes on where it was, and the trigger of the test must be that of the training.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        results = []
        for seed in (1, 2):
            train = split(shape, _CLASSES, _COUNT)
            with global_seed(seed):
                made = _poison(attack, train)
                results.append((made, attack.trigger(np.array(train.images), Streams(0).child("attack"))))
        expect(_same(results[0][0], results[1][0]), "poison() gave two different sets: draw from ``streams``")
        expect(np.array_equal(results[0][1], results[1][1]), "trigger() gave different images: draw from ``streams``")

    fitting((GREY, COLOUR), attempt)


@check("attack")
def another_seed_poisons_other_examples(attack: Attack) -> None:
    """Another seed chooses other examples to poison, where there is a choice.

    Tables give intervals over seeds: with one fixed choice they would be too narrow to be true.
    """

    def attempt(shape: tuple[int, int, int]) -> None:
        train = split(shape, _CLASSES, _COUNT)
        roles = [_poison(attack, train, seed).roles for seed in range(4)]
        touched = roles[0] != Role.CLEAN
        choice = (np.isin(train.labels, train.labels[touched]) & ~touched).any()
        expect(not choice or any((r != roles[0]).any() for r in roles), "the same examples for seeds 0, 1, 2 and 3")

    fitting((GREY, COLOUR), attempt)


@check("attack")
def refuses_a_target_that_is_not_there(attack: Attack) -> None:
    """A ``target`` beyond the set's labels is refused by a BdbenchError of one line.

    It becomes ``bdbench: ...`` and exit code 2; any other exception is a traceback for the user.
    """
    if not isinstance(getattr(attack, "target", None), int):
        return
    for shape in (GREY, COLOUR):
        try:
            _poison(dataclasses.replace(attack, target=_CLASSES), split(shape, _CLASSES, _COUNT))  # type: ignore[call-arg]
        except BdbenchError as error:
            expect("\n" not in str(error), f"an error of several lines: {error}")
        else:
            expect(False, f"target={_CLASSES} was accepted for labels 0..{_CLASSES - 1}")
