"""Checks of what attacks try models with."""

from __future__ import annotations

import numpy as np

from bdbench.cells import returned
from bdbench.components.attacks import Attack, SourceSpecific, TriggerAttack
from bdbench.errors import BdbenchError
from bdbench.images.data import ANY_OTHER, Challenge, Role
from bdbench.testing.checks import check, expect, fitting
from bdbench.testing.samples import Shape
from bdbench.testing.trials import CLASSES, SHAPES, Made, all_made, images_of, settled, tried

_LABELS = np.arange(CLASSES)


def _challenges(attack: Attack) -> list[tuple[Made, Challenge, np.ndarray]]:
    """What it made, its challenge, and the true label of each row; none of a control."""
    found = all_made(attack)
    return [(m, m.challenge, m.images.test.labels[m.challenge.index]) for m in found if m.challenge is not None]


@check("attack")
def challenges_in_arrays_of_the_declared_types(attack: Attack) -> None:
    """``challenge`` returns images uint8 (m, H, W, C), index int64 (m,) of test images, goal int64 (m,) in 0..K-1.

    A goal may be ANY_OTHER, which is -1: any label but the image's own. Models take uint8; the index leads to the true
    labels, and accuracies are counted by both.
    """
    for made in all_made(attack):
        if made.challenge is not None:
            _accepted(made)


@check("attack")
def challenges_unless_it_is_a_control(attack: Attack) -> None:
    """``challenge`` has a row whose goal is another label than the image's own; or it is None and ``control`` is True.

    Without such a row there is no success to measure. What a defense does to a control is its price, so that an attack
    that happens to attack nothing must not pass for one.
    """
    for made in all_made(attack):
        _accepted(made)


def _accepted(made: Made) -> None:
    try:
        returned.challenge(made.attack, made.images, made.challenge)
    except BdbenchError as error:
        expect(False, str(error))


@check("attack")
def challenge_changes_images(attack: Attack) -> None:
    """A trigger attack's challenge shows changed images, most of them, and they are new arrays.

    A trigger that does nothing has a success rate of nothing, which a table cannot tell from a good defense; and images
    that share memory with the clean ones would be changed along with them.
    """

    def attempt(shape: Shape) -> None:
        with tried(attack, images_of(shape)) as trial:
            challenge, test = trial.challenge(), np.asarray(trial.images.test.images)
        if challenge is None:
            return
        expect(not np.shares_memory(challenge.images, test), "the images that came in, not new ones")
        clean = np.asarray(images_of(shape).test.images)
        changed = float((challenge.images != clean[challenge.index]).any((1, 2, 3)).mean())
        if isinstance(attack, TriggerAttack):
            expect(changed > 0.5, f"{100 * changed:.0f} % of the images changed")

    fitting(SHAPES, attempt)


@check("attack")
def bystanders_want_their_own_label(attack: Attack) -> None:
    """The images on which a trigger is to do nothing have their own label as their goal; others have none such.

    By that they are told apart: images of the target class are no success of the attack, and a source-specific one that
    names its target for all would be measured on what it does not try. Declare them by ``bystanders = True``.
    """
    for made, challenge, truth in _challenges(attack):
        own = challenge.goal == truth
        if isinstance(made.attack, SourceSpecific):
            wrong = int((~own & (truth != made.attack.source)).sum())
            expect(not wrong, f"{wrong} images that are not of source={made.attack.source} have another goal")
        elif isinstance(made.attack, TriggerAttack) and not made.attack.bystanders:
            expect(not own.any(), f"{int(own.sum())} images have their own label as their goal")


@check("attack")
def poisons_teach_the_goal(attack: Attack) -> None:
    """A POISON is trained with a label that the challenge wants, of an image of its own class if any is attacked.

    Attack success is counted against the goal: one that was never taught looks like a defense that works.
    """
    for made, challenge, truth in _challenges(attack):
        poisons = np.flatnonzero(made.poisoned.roles == Role.POISON)
        labels, original = made.poisoned.labels[poisons], made.poisoned.original_labels[poisons]
        attacked = challenge.goal != truth
        wrong = 0
        for label, own in zip(labels, original, strict=True):
            # Clean-label poisons teach their own label, which is wanted of others.
            same = attacked & (truth == own) if label != own else attacked
            wanted = challenge.goal[same if same.any() else attacked]
            wrong += label not in wanted and not (ANY_OTHER in wanted and label != own)
        expect(not wrong, f"{wrong} of {len(poisons)} poisons have another label")


@check("attack")
def goal_is_a_label_for_every_label(attack: Attack) -> None:
    """A trigger attack's ``goal`` maps int64 (n,) and K to int64 (n,) in 0..K-1, and leaves the labels as they were.

    It is asked for the labels of the training set and of the test set. Where any other label will do, it is ANY_OTHER,
    and ``taught`` says which labels the poisons have.
    """
    if not isinstance(attack, TriggerAttack):
        return

    ready = settled(attack, CLASSES)
    for labels in (_LABELS, _LABELS[:1], _LABELS[::-1].repeat(2)):
        given = labels.copy()
        goal = ready.goal(given, CLASSES)
        expect(np.array_equal(given, labels), "goal() changed the labels in place")
        expect(isinstance(goal, np.ndarray), f"{type(goal).__name__} instead of an array")
        expect(goal.dtype == np.int64 and goal.shape == labels.shape, f"{goal.dtype} {goal.shape} for {labels.shape}")
        low, high = goal.min(), goal.max()
        expect(ANY_OTHER <= low <= high < CLASSES, f"labels in {low}..{high} where K = {CLASSES}")
