"""What becomes of a suspect group's examples when the group is withheld from training.

The ensemble finds groups; whether one is a backdoor is asked of new networks, so that what was searched for is not
judged by what it was found in. Each of them is trained on a random subset from which, for every class by its own coin,
one of the class's groups is withheld, or none. What a group's members lose is the strength of the feature that they
share, by intervention: how far their margin rises with the others in the training set in place of none (the change of
the k-output of Khaddaj et al. 2023, sec. 3, from k = 0 to alpha p).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bdbench_datamodel.separation import FEWEST, Separation, separate
from bdbench_datamodel.sharpest import AS_LARGE, explained, sharpest_of
from bdbench_datamodel.spectrum import Spectrum
from bdbench_datamodel.standout import Group, covariance_affinity

# From this share of a class on, the rest of it may be the poisons, and be what the group is sharply told from.
_EITHER = 0.25


@dataclass(frozen=True)
class Suspects:
    """A group of one class. examples: int64 (n_c,), the class; members: bool (n_c,); fits: float64 (n_c,), how surely a
    discriminant tells each as a member; sharpness: see ``Separation``; kind: "sharpest", "rest" or "handful";
    explained: of the first two, where there are both, how much of what the group does the other part's margins tell.
    """

    label: int
    examples: np.ndarray
    members: np.ndarray
    fits: np.ndarray
    sharpness: float
    kind: str
    explained: float = 0.0

    @property
    def separation(self) -> Separation:
        """What a discriminant tells of it."""
        return Separation(self.fits, self.members, self.sharpness)

    @property
    def group(self) -> np.ndarray:
        """The members' places in the training set, int64 (k,)."""
        return self.examples[self.members]


@dataclass(frozen=True)
class Effect:
    """What withholding a group does. lift: float64 (n_c,), how far the margin of each example of its class falls;
    strength: the mean of the members'; alone: their mean margin without each other.
    """

    lift: np.ndarray
    strength: float
    alone: float


def suspects(
    residuals: np.ndarray,
    labels: np.ndarray,
    strongest: Sequence[Group],
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[list[Suspects]]:
    """Of every class of eight examples or more its sharpest group, the rest of the class where the group is a quarter
    of it or more, and its sharpest handful; classes in which there are none are left out.

    residuals: float (m, n), margins freed of their own inclusion; labels: int64 (n,); strongest: of each class that has
    one, what the search ended at, from which a discriminant makes one start (``separate``). ``advance`` counts a class.
    """
    guesses = {group.label: group for group in strongest}
    found = []
    for label in np.unique(labels):
        examples = np.flatnonzero(labels == label)
        groups: list[Suspects] = []
        if len(examples) >= 2 * FEWEST:
            own = residuals[:, examples]
            spectrum = Spectrum.of(own)
            guess = None
            if label in guesses:
                group = guesses[label]
                guess = separate(spectrum, group.members, covariance_affinity(residuals, group)).members
            for kind in ("sharpest", "handful"):
                best = sharpest_of(own, spectrum, rng, kind == "handful", guess if kind == "sharpest" else None)
                if best.sharpness > 0:
                    groups.append(Suspects(int(label), examples, best.members, best.fits, best.sharpness, kind))
            if groups and groups[0].kind == "sharpest" and groups[0].members.mean() >= _EITHER:
                groups[:1] = _parts(groups[0], own)
        if groups:
            found.append(groups)
        advance(1)
    return found


def _parts(group: Suspects, residuals: np.ndarray) -> list[Suspects]:
    """A class's sharpest group and the rest of it, which is as sharp. residuals: float (m, n_c)."""
    members = group.members
    rest = replace(group, members=~members, fits=1 - group.fits, kind="rest", explained=explained(residuals, ~members))
    return [replace(group, explained=explained(residuals, members)), rest]


def sharpest_parts(classes: Sequence[Sequence[Suspects]], groups: Sequence[Group]) -> list[Separation]:
    """The sharpest group of each one's class as ``sharpest`` gives it: of two parts of about one size the one that the
    other tells less of. Nothing (sharpness 0) where there is none.
    """
    own = {suspects[0].label: suspects for suspects in classes}
    found = []
    for group in groups:
        parts = [s for s in own.get(group.label, ()) if s.kind != "handful"]
        if not parts:
            nothing = np.zeros(len(group.examples))
            found.append(Separation(nothing, nothing > 0, 0.0))
        elif len(parts) == 2 and parts[0].members.mean() > AS_LARGE and parts[1].explained < parts[0].explained:
            found.append(parts[1].separation)
        else:
            found.append(parts[0].separation)
    return found


def draw(
    classes: Sequence[Sequence[Suspects]], examples: int, networks: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which group each network is denied, int64 (networks, classes), 0 for none and j for the j-th of the class; and
    its subset, bool (networks, examples), of ``size`` of what is left, or of as many as are left to every network.
    """
    denied = np.stack([rng.integers(0, len(groups) + 1, networks) for groups in classes], 1)
    left = np.ones((networks, examples), bool)
    for groups, own in zip(classes, denied.T, strict=True):
        for place, suspect in enumerate(groups, 1):
            left[np.ix_(own == place, suspect.group)] = False
    size = min(size, int(left.sum(1).min()))
    masks = np.zeros_like(left)
    for row, pool in zip(masks, left, strict=True):
        row[rng.choice(np.flatnonzero(pool), size, replace=False)] = True
    return denied, masks


def effects(
    classes: Sequence[Sequence[Suspects]], denied: np.ndarray, masks: np.ndarray, margins: np.ndarray
) -> list[list[Effect]]:
    """What withholding each group does to its class, from what ``draw`` gave and margins, float (M, n).

    With the group in reach, only networks that do not hold an example count for it (the paper's z not in S'). A group
    that no network was denied, or every one, has no effect.
    """
    found = []
    for groups, own in zip(classes, denied.T, strict=True):
        reached, results = own == 0, []
        for place, suspect in enumerate(groups, 1):
            without, examples, members = own == place, suspect.examples, suspect.members
            lift, alone = np.zeros(len(examples)), np.zeros(len(examples))
            if without.any() and reached.any():
                alone = margins[without][:, examples].mean(0, dtype=np.float64)
                lift = _unseen(margins[reached][:, examples], masks[reached][:, examples]) - alone
            results.append(Effect(lift, float(lift[members].mean()), float(alone[members].mean())))
        found.append(results)
    return found


def _unseen(margins: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean of each column (n,) over the rows that do not hold it, float64; over all rows where every one does."""
    counts = (~masks).sum(0)
    sums = np.where(masks, 0, margins).sum(0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), margins.mean(0, dtype=np.float64))
