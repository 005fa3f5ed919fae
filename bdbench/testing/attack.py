"""Checks of what attacks make of a training set."""

from __future__ import annotations

import numpy as np

from bdbench.cells import metrics
from bdbench.components.attacks import Attack
from bdbench.images.data import ImageData, PoisonedData, Role, Split
from bdbench.images.preparation import prepare
from bdbench.seeds import Streams
from bdbench.testing.checks import check, expect, first_fitting
from bdbench.testing.samples import Shape, lit
from bdbench.testing.trials import CLASSES, COUNT, SHAPES, all_made, tried

_MANY, _NEIGHBOURS = 2000, 50
# Of an AUROC about .5: the margin, and where poisons are few, so many deviations of what chance gives.
_MARGIN, _DEVIATIONS = 0.1, 4


@check("attack")
def poisons_into_arrays_of_the_declared_types(attack: Attack) -> None:
    """``poison`` returns images uint8 (n, H, W, C), labels int64 (n,), roles int8 (n,), original_labels int64 (n,).

    What is stored is what is trained on: floats would be rounded on the way, and another n would shift the truth
    against the images.
    """
    for made in all_made(attack):
        poisoned, n = made.poisoned, len(made.origin)
        types = {"images": np.uint8, "labels": np.int64, "roles": np.int8, "original_labels": np.int64}
        types |= {} if poisoned.index is None else {"index": np.int64}
        for name, dtype in types.items():
            array = getattr(poisoned, name)
            shape = (n, *made.images.shape) if name == "images" else (n,)
            expect(array.dtype == dtype and array.shape == shape, f"{name} of {array.dtype} {array.shape}")
        rows = made.origin
        expect(((rows >= 0) & (rows < COUNT)).all(), f"index in {rows.min()}..{rows.max()} of {COUNT} examples")


@check("attack")
def labels_are_in_range(attack: Attack) -> None:
    """All labels after poisoning are among the set's own, 0..K-1.

    The network has K outputs; any other label ends the training with an index error far from its cause.
    """
    for made in all_made(attack):
        low, high = made.poisoned.labels.min(), made.poisoned.labels.max()
        expect(0 <= low <= high < CLASSES, f"labels in {low}..{high} where K = {CLASSES}")


@check("attack")
def roles_tell_the_truth(attack: Attack) -> None:
    """An example is CLEAN exactly if neither image nor label changed; COVER keeps its label; nothing else exists.

    Detection is scored against the roles: a changed example that is called clean counts as a false alarm, and a poison
    that is as it was cannot be found.
    """
    for made in all_made(attack):
        train, poisoned = made.images.train, made.poisoned
        moved = (poisoned.images != np.asarray(train.images)[made.origin]).any((1, 2, 3))
        relabelled = poisoned.labels != train.labels[made.origin]
        clean, cover = poisoned.roles == Role.CLEAN, poisoned.roles == Role.COVER
        known = np.isin(poisoned.roles, list(Role))
        expect(known.all(), f"roles {sorted(set(poisoned.roles[~known].tolist()))}")
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
    for made in all_made(attack):
        wrong = int((made.poisoned.original_labels != made.images.train.labels[made.origin]).sum())
        expect(not wrong, f"{wrong} of {len(made.origin)} differ")


@check("attack")
def poisons_are_as_many_as_the_rate_says(attack: Attack) -> None:
    """There are ``round(rate * n)`` POISON examples of n, if it has a ``rate``; none if nothing is planted.

    Peers disagree on what a rate is a rate of; here it is of the whole training set, or tables cannot be compared.
    ``cover_rate``, of COVER examples, is as well.
    """
    for made in all_made(attack):
        found = int((made.poisoned.roles == Role.POISON).sum())
        if attack.control or not attack.plants:
            expect(
                found == 0, f"{found} poisons of {'a control' if attack.control else 'an attack that plants nothing'}"
            )
            continue
        expect(found > 0, "no poisons at all")
        for name, role in (("rate", Role.POISON), ("cover_rate", Role.COVER)):
            share, found = getattr(attack, name, None), int((made.poisoned.roles == role).sum())
            if isinstance(share, float):
                asked = round(share * COUNT)
                what = f"{found} {'poisons' if role == Role.POISON else 'covers'} of {COUNT}"
                expect(found == asked, f"{what} at {name}={share:g}, which asks for {asked}")


@check("attack")
def clean_label_changes_no_label(attack: Attack) -> None:
    """With ``clean_label = True`` no label changes; with ``clean_label = False`` every POISON changes its label.

    A person who inspects a clean-label set finds no wrong label; the two kinds are tabled apart for that.
    """
    clean_label = getattr(attack, "clean_label", None)
    for made in all_made(attack) if clean_label is not None else []:
        changed = made.poisoned.labels != made.poisoned.original_labels
        if clean_label:
            expect(not changed.any(), f"{int(changed.sum())} labels changed")
        else:
            kept = int((~changed[made.poisoned.roles == Role.POISON]).sum())
            expect(not kept, f"{kept} poisons keep their label")


@check("attack")
def order_says_nothing_of_roles(attack: Attack) -> None:
    """Of a set that listed class by class before the harness shuffled it, the order of the labels tells no poison.

    Scored are an example's place, and how many of its 50 neighbours have another label, against what chance gives:
    where the order of the classes is left, or poisons stand together, a "defense" that sees no image has an AUROC of 1.
    """
    if attack.control or not attack.plants:
        return
    poisoned = first_fitting(SHAPES, lambda shape: _of_a_sorted_set(attack, shape))
    roles, n = poisoned.roles, len(poisoned.roles)
    poisons = int((roles == Role.POISON).sum())
    margin = max(_MARGIN, _DEVIATIONS * np.sqrt((n + 1) / (12 * poisons * (n - poisons))))
    for what, scores in (("its place", np.arange(n)), ("its neighbours' labels", order_scores(poisoned.labels))):
        auroc = metrics.detection(scores, np.argsort(-scores, kind="stable"), roles, None).auroc
        expect(auroc is None or abs(auroc - 0.5) <= margin, f"an AUROC of {auroc:.2f} by {what}")


def _of_a_sorted_set(attack: Attack, shape: Shape) -> PoisonedData:
    """A set that lists class by class, prepared as the harness does, after the attack."""
    labels = np.sort(np.arange(_MANY) % CLASSES)
    train, test = (Split(lit(part, CLASSES, shape), part) for part in (labels, labels[:: _MANY // COUNT]))
    names = tuple(map(str, range(CLASSES)))
    with tried(attack, prepare(ImageData(train, test, names), streams=Streams(0))) as trial:
        return trial.poison()


def order_scores(labels: np.ndarray) -> np.ndarray:
    """How many of the 50 nearest in the order have another label, float64 (n,), in deviations from what chance gives.

    Without chance taken off, the target's label would tell in any order: it is the most frequent, so that fewer others
    are around its examples (an AUROC of .19 for 5 % of poisons in a shuffled set of ten classes, in place of .5).
    """
    n, each = len(labels), _NEIGHBOURS // 2
    places = np.arange(n)[:, None] + np.delete(np.arange(-each, each + 1), each)
    there = (places >= 0) & (places < n)
    others = (labels[np.clip(places, 0, n - 1)] != labels[:, None]) & there
    chance = 1 - (np.bincount(labels)[labels] - 1) / (n - 1)
    deviation = np.sqrt(np.maximum(chance * (1 - chance) / there.sum(1), 1e-12))
    return (others.sum(1) / there.sum(1) - chance) / deviation
