"""What may be a backdoor's in each class: the group that is told most sharply, its rest, and a handful."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bdbench_datamodel.separation import FEWEST, Separation, separate
from bdbench_datamodel.sharpest import Starts, explained, sharpest
from bdbench_datamodel.spectrum import Spectrum
from bdbench_datamodel.standout import Group

# From this share of a class on, the rest of it may be the poisons, and be what the group is sharply told from.
_EITHER = 0.25
# Groups that have this share of their union in common are one.
_COMMON = 0.5
# From this share on the two are about as large.
_AS_LARGE = 0.4


@dataclass(frozen=True)
class Suspects:
    """A group of one class. examples: int64 (n_c,), the class; members: bool (n_c,); fits: float64 (n_c,), how surely a
    discriminant tells each as a member; sharpness: see ``Separation``; kind: "sharpest", "rest", "strongest" or
    "handful"; explained: of the first two, where there are both, how much of what the group does the other part's
    margins tell.
    """

    label: int
    examples: np.ndarray
    members: np.ndarray
    fits: np.ndarray
    sharpness: float
    kind: str
    explained: float = 0.0

    @property
    def group(self) -> np.ndarray:
        """The members' places in the training set, int64 (k,)."""
        return self.examples[self.members]


@dataclass(frozen=True)
class Looked:
    """What was found in one class. grown: what a discriminant makes of its strongest group (``separate``); groups: its
    sharpest one, the rest of the class where that is a quarter of it or more (the smaller of the two first), the grown
    one where it is another, and its sharpest handful, as far as there are any.
    """

    grown: Separation
    groups: tuple[Suspects, ...]

    @property
    def sharpest(self) -> Separation:
        """The sharpest group, nothing (sharpness 0) where there is none. Of two parts of about one size, which are as
        sharp, it is the one that the other tells less of (``explained``).
        """
        parts = [group for group in self.groups if group.kind in ("sharpest", "rest")]
        if not parts:
            nothing = np.zeros(len(self.grown.fits))
            return Separation(nothing, nothing > 0, 0.0)
        equal = len(parts) == 2 and parts[0].members.mean() > _AS_LARGE
        found = min(parts, key=lambda part: part.explained) if equal else parts[0]
        return Separation(found.fits, found.members, found.sharpness)


def look(
    residuals: np.ndarray,
    groups: Sequence[Group],
    affinities: Sequence[np.ndarray],
    rng: np.random.Generator,
    handfuls: bool = True,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Looked]:
    """What there is to suspect in the class of each strongest group; nothing in those of fewer than eight examples.

    residuals: float (m, n), margins freed of their own inclusion; affinities: float (n_c,) for each group. What a
    discriminant makes of the strongest group is one start more for the sharpest. ``advance`` counts a class.
    """
    found = []
    for strongest, affinity in zip(groups, affinities, strict=True):
        own = residuals[:, strongest.examples]
        spectrum, starts = Spectrum.of(own), Starts.of(own, rng)
        grown = separate(spectrum, strongest.members, affinity)
        suspects: list[Suspects] = []

        def suspect(told: Separation, kind: str, strongest: Group = strongest) -> Suspects:
            return Suspects(strongest.label, strongest.examples, told.members, told.fits, told.sharpness, kind)

        if len(strongest.examples) >= 2 * FEWEST:
            whole = sharpest(spectrum, starts, guess=grown.members)
            if whole.sharpness > 0:
                suspects += _parts(suspect(whole, "sharpest"), own)
            if grown.sharpness > 0 and not any(_alike(grown.members, other.members) for other in suspects):
                suspects.append(suspect(grown, "strongest"))
            handful = sharpest(spectrum, starts, few=True) if handfuls else None
            if handful is not None and handful.sharpness > 0:
                suspects.append(suspect(handful, "handful"))
        found.append(Looked(grown, tuple(suspects)))
        advance(1)
    return found


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two groups of a class, bool (n_c,), or one and the other's rest, have more in common than not."""
    return any((one & those).sum() > _COMMON * (one | those).sum() for those in (other, ~other))


def _parts(group: Suspects, residuals: np.ndarray) -> list[Suspects]:
    """A class's sharpest group and, where that is a quarter of it or more, the rest, which is as sharp.

    Which of the two was found hangs on rounding, and so must not decide what becomes of them: the smaller part comes
    first, of two of one size that with the first example.
    """
    members = group.members
    if members.mean() < _EITHER:
        return [group]
    size, rest = members.sum(), (~members).sum()
    if (rest, members[0]) < (size, ~members[0]):
        group, members = replace(group, members=~members, fits=1 - group.fits), ~members
    other = replace(group, members=~members, fits=1 - group.fits, kind="rest", explained=explained(residuals, ~members))
    return [replace(group, explained=explained(residuals, members)), other]
