"""Who else of its class carries what a suspect group shares.

What networks do tells a group sharply, and may tell a part of the poisons alone: a handful of many, or those that a
faint trigger happened to take on. Withholding the part then says nothing of the others, which stay. But a trigger is in
their pixels, and the mean of a few shows it.
"""

from __future__ import annotations

import numpy as np

from bdbench_datamodel.scoring import told_apart
from bdbench_datamodel.separation import FEWEST, upper
from bdbench_datamodel.suspects import Suspects

# The least deviation of a pixel, in grey levels: one that is the same in all of a class tells nothing by a rounding.
_LEAST_DEVIATION = 8.0
_ROUNDS = 10
# The share of the variance of one normal law that lies between its halves: any other cut has less.
_ONE_LAW = 2 / np.pi
# So many of a group's members are in the larger one that it is a part of.
_NEARLY_ALL = 0.8


def grown(images: np.ndarray, suspect: Suspects) -> tuple[np.ndarray, np.ndarray] | None:
    """The larger group that a suspect one is a part of, bool (n_c,), and how much of its share each example of the
    class carries, float64 (n_c,); None where there is none.

    images: uint8 (n, H, W, C). The group is made anew of those who carry as much of what it shares, the upper of two
    normal groups, until it does not change, or ten times. It is larger where nearly all of the members are in it and
    others as well; and what it shares must tell it from the others better than a cut through one normal law tells two
    parts: else it has run away, as in photographs, of which the upper half shares something along any direction.
    """
    own = images[suspect.examples].reshape(len(suspect.examples), -1).astype(np.float32)
    members = suspect.members
    carried, above = _told(own, members)
    for _ in range(_ROUNDS):
        following = above > 0.5
        if min(following.sum(), (~following).sum()) < FEWEST:
            return None
        if (following == members).all():
            break
        members = following
        carried, above = _told(own, members)
    if members.sum() <= suspect.members.sum() or members[suspect.members].mean() < _NEARLY_ALL:
        return None
    return (members, carried) if told_apart(carried, above) > _ONE_LAW else None


def _told(pixels: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``carrying`` of members, and the probability of each example to be of the upper of two normal groups of it."""
    carried = carrying(pixels, members)
    return carried, upper(carried, members)


def carrying(pixels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How much each of a class carries of what its members share, float64 (n_c,).

    pixels: float32 (n_c, d); members: bool (n_c,), two or more, and two or more beside them. The projection onto the
    difference of the members' mean to their class-mates', each pixel in units of the class-mates' variance (a matched
    filter; Fisher's discriminant, were pixels independent); each onto the difference that the others make, so that a
    member is not drawn to the members by itself, nor a class-mate to the class-mates.
    """
    inside, outside = pixels[members], pixels[~members]
    rest, total = outside.mean(0, dtype=np.float64), inside.sum(0, dtype=np.float64)
    weights = 1 / (outside.std(0, dtype=np.float64) + _LEAST_DEVIATION) ** 2
    ours, carried = total / len(inside), np.empty(len(pixels))
    carried[members] = (inside * ((total - inside) / (len(inside) - 1) - rest) * weights).sum(1)
    without = (len(outside) * rest - outside) / (len(outside) - 1)
    carried[~members] = (outside * (ours - without) * weights).sum(1)
    return carried
