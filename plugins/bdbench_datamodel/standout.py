"""The strongest group of each label class, how surely one of them stands out, and how near each example is to its own.

Every label class is searched as a training set of its own, since poisons share a label and what they are to be
told from is the rest of their class. Groups of different sizes and classes are compared by the quantity of
Theorem 1 of Khaddaj et al. 2023 in units of their class's margins: without this, classes that are hard to learn
win by their scale alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from bdbench_datamodel.influence import Influence
from bdbench_datamodel.lowrank import objective_of
from bdbench_datamodel.search import counts, search

# Less is no sharpness: near 0 its logarithm would tell classes apart by nothing.
_DULL = 0.1
# Classes whose sizes differ by less say nothing of what strength owes to size.
_LARGER = 1.5
# Sums of float32 tell no smaller relative differences apart.
TIED = 1e-6
# Below this Bonferroni's bound is as good as exact, and samples of the null would be too few.
_SMALL = 0.05


@dataclass(frozen=True)
class Group:
    """The strongest group of one class. examples: int64 (n_c,), the class; members: bool (n_c,); strength: see
    ``strongest``.
    """

    label: int
    examples: np.ndarray
    members: np.ndarray
    strength: float

    def contrast(self) -> np.ndarray:
        """h(v) of the paper's Lemma 1 within the class: 1/k on members, -1/(n_c - k) on the others; float32 (n_c,)."""
        inside = self.members / self.members.sum()
        return (inside - ~self.members / (~self.members).sum()).astype(np.float32)


def class_scales(residuals: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The root mean square of its class's residuals (m, n), for each example; float64 (n,), positive."""
    squares = (residuals**2).mean(0, dtype=np.float64)
    sums = np.bincount(labels, squares)
    return np.sqrt(np.maximum(sums[labels] / np.bincount(labels)[labels], np.finfo(float).tiny))


def matrix_scales(influence: Influence, labels: np.ndarray) -> np.ndarray:
    """The same for a matrix that comes without margins: the root mean square of its class's block; float64 (n,)."""
    scales = np.empty(len(labels))
    for label in np.unique(labels):
        examples = np.flatnonzero(labels == label)
        scales[examples] = max(influence.root_mean_square(examples), np.finfo(float).tiny)
    return scales


def strongest(
    influence: Influence,
    labels: np.ndarray,
    scales: np.ndarray,
    fractions: Sequence[float],
    starts: int,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Group]:
    """The strongest group of every class that is large enough for one of the sizes.

    labels: int64 (n,); scales: float (n,), the unit of each example's class; fractions: sizes as shares of the
    class. With W the class's own block and v a group of k of its n_c examples, strength is

        1_v' W h(1_v) / scale,   h(1_v) = 1_v / k - (1 - 1_v) / (n_c - k):

    how much the members' margin rises with all of them in the training set in place of none; where classes are of
    unequal size, less what it owes to that (``owed_to_size``). ``advance`` counts a class.
    """
    groups = []
    for label in np.unique(labels):
        examples = np.flatnonzero(labels == label)
        count = len(examples)
        problem = objective_of(influence, examples)
        best: tuple[float, np.ndarray] | None = None
        for size in counts(fractions, count):
            cuts = search(problem, size, starts, rng)
            strength = cuts.objectives.max() * count / (size * (count - size)) / scales[examples[0]]
            if best is None or strength > best[0]:
                best = float(strength), cuts.best
        if best is not None:
            members = np.zeros(count, bool)
            members[best[1]] = True
            groups.append(Group(int(label), examples, members, best[0]))
        advance(1)
    owed = owed_to_size(np.array([g.strength for g in groups]), np.array([len(g.examples) for g in groups]))
    return [replace(group, strength=group.strength / by) for group, by in zip(groups, owed, strict=True)]


def owed_to_size(strengths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """By what factor each of K strengths is larger than in a class of mean size, float64 (K,) of geometric mean 1.

    More members move more, and of more groups the largest is larger: about as the root of the class's size. The factor
    is a power of it, namely the median slope of the logarithms over pairs of classes (Theil 1950, Sen 1968) of which
    one is half as large again as the other. It is 1 unless there are such pairs without any one class: among classes of
    one size a single larger one is suspicious by itself, since poisons may be what it has more.
    """
    found = strengths > 0
    larger, smaller = np.nonzero((sizes[:, None] > _LARGER * sizes) & found[:, None] & found)
    if not len(larger) or any(((larger == c) | (smaller == c)).all() for c in (larger[0], smaller[0])):
        return np.ones(len(strengths))
    slopes = np.log(strengths[larger] / strengths[smaller]) / np.log(sizes[larger] / sizes[smaller])
    logs = np.log(sizes)
    return np.exp(np.median(slopes) * (logs - logs.mean()))


def p_value(strengths: np.ndarray, sharpness: np.ndarray | None = None) -> float | None:
    """How surely the strongest of K groups stands out: ``significance`` of its strength.

    strengths: float (K,); with sharpness, (K,) in (-inf, 1] of ``separate``, the larger of that and the significance of
    strength times sharpness: were all classes of one law in the one or in the other, so small a value would be no more
    likely than it says; a class that stands out by nature seldom does in both.
    """
    place = int(strengths.argmax())
    alone = significance(strengths, place)
    if alone is None or sharpness is None:
        return alone
    return max(alone, significance(strengths * np.maximum(sharpness, _DULL), place) or 0.0)


def significance(strengths: np.ndarray, place: int) -> float | None:
    """The probability that the largest of K strengths is as far off as the one at ``place``, if all came from one law.

    Each logarithm is held against the mean and deviation of the other K - 1: a t statistic with K - 2 degrees of
    freedom, were they normal (Grubbs 1950). The probability of the largest is K times its tail where that is small
    (Bonferroni, an upper bound), else the share of normal samples that go as far. Where ``place`` was chosen by
    something else it is no smaller than it should be, since no place has more than the largest.

    A strength that is not positive is of a class where nothing was found, and does not count. None if fewer than three
    do, so that there is nothing to compare with, or if the one at ``place`` does not.

    It is no test against chance within a class: examples that co-vary make strong groups by chance as well, and that
    is part of what stands out.
    """
    found = strengths > 0
    if found.sum() < 3 or not found[place]:
        return None
    logs = np.log(strengths[found])
    if np.ptp(logs) <= TIED:
        return 1.0
    statistic = float(_t(logs[None], np.log(strengths[place : place + 1]))[0])
    bound = float(len(logs) * stats.t.sf(statistic, len(logs) - 2))
    return bound if bound < _SMALL else float((_null(len(logs)) >= statistic).mean())


def _t(samples: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The t statistic of one of each row (N, K), its value (N,), against the others; from Grubbs' G of the row."""
    count = samples.shape[1]
    g = (values - samples.mean(1)) / samples.std(1, ddof=1)
    # G is at most (K - 1) / sqrt(K), which it reaches where the others are all alike.
    room = np.maximum((count - 1) ** 2 - count * g**2, np.finfo(float).tiny)
    return np.sign(g) * np.sqrt(count * (count - 2) * g**2 / room)


@functools.lru_cache
def _null(count: int) -> np.ndarray:
    samples = np.random.default_rng(0).normal(size=(20_000, count))
    return _t(samples, samples.max(1))


def covariance_affinity(residuals: np.ndarray, group: Group) -> np.ndarray:
    """How much more each example of the group's class co-varies with the members than with the rest; float64 (n_c,).

    residuals: float32 (m, n), margins freed of their own inclusion. Example i gets sum_j C_ij h_j without j = i,
    divided by the class's mean variance, where C is the response covariance: it has seen the same models as W with
    far less noise, but not which examples they held, so that it judges W's group independently of W's chance.
    """
    own = residuals[:, group.examples]
    contrast = group.contrast()
    variances = (own**2).mean(0, dtype=np.float64)
    shared = own.T @ (own @ contrast) / np.float32(len(own))
    return (shared - variances * contrast) / max(variances.mean(), np.finfo(float).tiny)


def matrix_affinity(influence: Influence, group: Group, scale: float) -> np.ndarray:
    """The same from W + W', in units of its class's ``scale``, for a matrix that comes without margins."""
    return influence.symmetric_times(group.examples, group.contrast()) / scale
