"""Which group of which label class stands out, how surely, and how near each example is to it.

Every label class is searched as a training set of its own, since poisons share a label and what they are to be
told from is the rest of their class. Groups of different sizes and classes are compared by the quantity of
Theorem 1 of Khaddaj et al. 2023 in units of their class's margins: without this, classes that are hard to learn
win by their scale alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bdbench_datamodel.influence import Influence
from bdbench_datamodel.lowrank import objective_of
from bdbench_datamodel.search import counts, search
from bdbench_datamodel.separation import separate, standardised

# The suspect's examples go to the front if they belong to the upper of two groups with at least this probability.
_BELONGS = 0.02
# Less is no sharpness: near 0 its logarithm would tell classes apart by nothing.
_DULL = 0.1
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

    how much the members' margin rises with all of them in the training set in place of none. ``advance`` counts
    a class.
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
    return groups


def outlier(strengths: np.ndarray) -> tuple[int, float | None]:
    """The place of the largest of strengths (K,), and ``significance`` of its being so large."""
    largest = int(strengths.argmax())
    return largest, significance(strengths, largest)


def significance(strengths: np.ndarray, place: int) -> float | None:
    """The probability that the largest of K strengths is as far off as the one at ``place``, if all came from one law.

    Each logarithm is held against the mean and deviation of the other K - 1: a t statistic with K - 2 degrees of
    freedom, were they normal (Grubbs 1950). The probability of the largest is K times its tail where that is small
    (Bonferroni, an upper bound), else the share of normal samples that go as far. None for K < 3, where there is
    nothing to compare with. Where ``place`` was chosen by something else it is no smaller than it should be, since
    no place has more than the largest.

    It is no test against chance within a class: examples that co-vary make strong groups by chance as well, and that
    is part of what stands out.
    """
    logs = np.log(np.maximum(strengths, np.finfo(float).tiny))
    if len(logs) < 3:
        return None
    if np.ptp(logs) == 0:
        return 1.0
    statistic = float(_t(logs[None], logs[None, place])[0])
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


def separated(
    residuals: np.ndarray,
    groups: Sequence[Group],
    affinities: Sequence[np.ndarray],
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """How sharply each group is told from its class-mates, float64 (K,) in (0, 1], and affinities sharpened by that.

    residuals: float (m, n); affinities: float (n_c,) each. Sharpened affinities are the sum of affinity and the
    discriminant's fit, each in deviations from its class's mean: where a class is small the one, where it is large
    the other knows more. ``advance`` counts a group.
    """
    sharpness, sharpened = np.empty(len(groups)), []
    for place, (group, affinity) in enumerate(zip(groups, affinities, strict=True)):
        found = separate(residuals[:, group.examples], group.members, affinity)
        sharpness[place] = max(found.sharpness, _DULL)
        sharpened.append(standardised(affinity) + standardised(found.fits))
        advance(1)
    return sharpness, sharpened


def agreed(strengths: np.ndarray, sharpness: np.ndarray) -> tuple[list[int], float | None]:
    """The places of the strongest of K groups and, if it is another, of the sharpest; how surely the first stands out.

    strengths, sharpness: float (K,). Where both signs name one class the discriminant may be believed there; where they
    do not, either may be right. The p-value is the larger of the significances of strength alone and of strength times
    sharpness: were all classes of one law in the one or in the other, so small a value would be no more likely than it
    says; a class that stands out by nature seldom does in both.
    """
    strongest, by_strength = outlier(strengths)
    by_product = significance(strengths * sharpness, strongest)
    sharpest = int(sharpness.argmax())
    suspects = [strongest] if sharpest == strongest else [strongest, sharpest]
    return suspects, None if by_product is None or by_strength is None else max(by_product, by_strength)


def scores(
    groups: Sequence[Group], affinities: Sequence[np.ndarray], suspects: Sequence[int], examples: int
) -> np.ndarray:
    """One score per example, float64 (examples,), from each group's affinities (n_c,).

    First those that belong with the first suspect's group, then those that belong with the next one's, then everyone by
    affinity to the group of his own class, the suspects' classes counting double: what the budget still takes is
    spread, where a class on its own would be lost.
    """
    result = np.zeros(examples)
    for place, (group, affinity) in enumerate(zip(groups, affinities, strict=True)):
        result[group.examples] = affinity if place in suspects else affinity / 2
    step = np.ptp(result) + 1
    for tier, suspect in enumerate(reversed(suspects), start=1):
        result[groups[suspect].examples[_belonging(affinities[suspect])]] += tier * step
    return result


def _belonging(values: np.ndarray) -> np.ndarray:
    """Which of the values (n,) lie in the upper of two normal groups with a probability of at least _BELONGS."""
    from sklearn.mixture import GaussianMixture

    if np.ptp(values) == 0 or len(values) < 4:
        return np.ones(len(values), bool)
    column = ((values - values.mean()) / values.std())[:, None]
    mixture = GaussianMixture(2, random_state=0, n_init=3).fit(column)
    upper = mixture.means_.argmax()
    likely = mixture.predict_proba(column)[:, upper] >= _BELONGS
    # A wide upper group claims the far low end as well: only what lies above the first gap counts.
    order = np.argsort(-values)
    ends = ~likely[order] & (column[order, 0] < mixture.means_[upper, 0])
    belongs = np.zeros(len(values), bool)
    belongs[order[: int(ends.argmax()) if ends.any() else len(values)]] = True
    return belongs
