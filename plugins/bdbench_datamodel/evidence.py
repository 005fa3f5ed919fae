"""From what withholding its groups did to each class, and what these share did to strangers: the probability of each
example to be a poison, and a verdict.

Every class is judged for itself, so that there may be none, several or all of them poisoned. What natural groups do was
learnt on clean sets (docs/experiments.md): there need be no clean class to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.blame import blamed
from bdbench_datamodel.carried import grown
from bdbench_datamodel.scoring import membership, told_apart
from bdbench_datamodel.separation import standardised, upper
from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect, unseen

# Of natural groups the logarithm of strength times odds of sharpness, at most: in sets of many classes it is their own
# lower quartile and a margin.
_USUAL = {"sharpest": 3.1, "rest": 3.2, "strongest": 3.1, "handful": 1.4}
_QUARTILE, _ABOVE = 0.25, {"sharpest": 0.15, "rest": 0.3, "strongest": 0.15, "handful": 0.15}
# The logistic law of the evidence, fitted to groups of poisons and natural ones.
_STRENGTH, _DEPTH, _TURNED, _NATURAL = 0.66, 0.43, 3.35, 2.26
# The mean of few images holds more that is theirs alone, and turns more strangers by chance: by this power of how many
# are in the smaller part of their class.
_OF_MANY = 0.35
# So deep, in usual margins, lie groups that belong to another label altogether.
_DEEP = 1.3
# Gumbel's law of the largest evidence of ten natural classes: its location, its scale in a set that networks know
# whole, and how much wider it is where they know nothing. Sets differ by more than their classes do: fewer are no less
# likely to hold something odd.
_LOCATION, _SCALE, _WIDER, _CLASSES = 0.10, 0.60, 0.30, 10
_LEVEL = 0.05
# Neither of a sharpness is so near to 0 or 1, nor strength or the share that is turned so near to 0, that its logarithm
# decides alone.
_LEAST_SHARPNESS, _EXACT, _LEAST_STRENGTH, _LEAST_TURNED = 0.01, 1e-3, 0.3, 0.02
# What depth counts more between the groups of one class, where all examples are known. A natural group turns strangers
# as well where its class-mates are poisons: by their difference turned round.
_BETWEEN = 2.0
# How fast the log odds of a class grow, for ranking, with evidence beyond what is natural at that level.
_STEEP = 2.0
# What is left of a budget falls on what networks take for another class, as far as they know the classes, and then at
# random: not on the natural groups of classes that nothing speaks for.
_PRIOR, _MISTAKEN = 0.23, 0.05
# What it counts in a ranking, as far as that tells nobody apart, that networks without the group do not give an example
# its label.
_WITHOUT = 16.0


@dataclass(frozen=True)
class Judgement:
    """scores: float64 (n,) in [0, 1], about the probability to be a poison; flagged: bool (n,); p_value: how probable
    evidence as large is where nothing is poisoned, None without any class to judge; evidence: label to log odds.
    """

    scores: np.ndarray
    flagged: np.ndarray
    p_value: float | None
    evidence: dict[int, float]


@dataclass(frozen=True)
class Known:
    """How well networks know a training set by what they did not hold. right: float64 (n,), what share of them finds
    each example's label more probable than all others together; levels: float64 (num_classes,), the mean margin of each
    class's examples.
    """

    right: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, margins: np.ndarray, masks: np.ndarray, labels: np.ndarray, num_classes: int) -> Known:
        """margins: float (m, n), under networks that hold the subsets masks, bool (m, n); labels: int64 (n,)."""
        right = unseen((margins > 0).astype(np.float32), masks)
        sums = np.bincount(labels, unseen(margins, masks), num_classes)
        return cls(right, sums / np.maximum(np.bincount(labels, minlength=num_classes), 1))

    def kappa(self, suspect: Suspects) -> float:
        """Cohen's kappa of all examples, or of the group's class-mates where it is smaller; not of its members, which
        may be poisons. Of ``right``, and so less than that of the most probable label.
        """
        return min(self.overall, self._beyond_chance(float(self.right[suspect.examples[~suspect.members]].mean())))

    def knowing(self, suspect: Suspects | None = None) -> float:
        """How far what networks say of a label counts, in [0, 1]: the cube of ``kappa``, or of ``overall``."""
        return (self.overall if suspect is None else self.kappa(suspect)) ** 3

    def evenly(self, classes: Sequence[Sequence[Suspects]]) -> float:
        """``knowing`` of all examples where each class counts as much, however many are in it: a set of which large
        classes alone are known varies as one that is hardly known.
        """
        return self._beyond_chance(float(np.mean([self.right[own[0].examples].mean() for own in classes]))) ** 3

    @property
    def overall(self) -> float:
        """Cohen's kappa of all examples."""
        return self._beyond_chance(float(self.right.mean()))

    def _beyond_chance(self, accuracy: float) -> float:
        chance = 1 / len(self.levels)
        return max(0.0, (accuracy - chance) / (1 - chance))


@dataclass(frozen=True)
class _Natural:
    """The law of the largest evidence of natural classes. scale: of Gumbel's law; classes: among how many its chance of
    an alarm is shared out, at most ten: of a hundred, each has that of one of ten.
    """

    scale: float
    classes: int

    @classmethod
    def of(cls, knowing: float, classes: int) -> _Natural:
        return cls(_SCALE + _WIDER * (1 - knowing), min(classes, _CLASSES))

    def exceeds(self, evidence: np.ndarray) -> np.ndarray:
        """The probability of one class to have evidence (K,) as large, float64 (K,)."""
        return -np.expm1(-np.exp(-(evidence - _LOCATION) / self.scale) / self.classes)

    def exceeded(self, probability: float) -> float:
        """The evidence that one class exceeds with a probability: ``exceeds`` turned round."""
        return float(_LOCATION - self.scale * np.log(-self.classes * np.log1p(-probability)))


def judge(
    classes: Sequence[Sequence[Suspects]],
    effects: Sequence[Sequence[Effect]],
    transfers: Sequence[Sequence[Transfer]],
    known: Known,
    otherwise: np.ndarray,
    images: np.ndarray,
) -> Judgement:
    """Judge every class by the group that most speaks against it.

    transfers: what each group's share does to strangers, for every class (``transfer.turned``);
    otherwise: float64 (n,), the probability of each example to be a poison by a comparison of classes (``suspicion``).
    The score is the larger of two: the probability that the example belongs to the group to blame in its class
    (``blamed``) and that one is a backdoor's, which is as likely as not where ``evidence`` is as large as in one clean
    set of twenty, or, beside classes that are named, as what would be named next; and ``otherwise`` as far as no
    class's is, which ranks where evidence is weak. It is at least what was probable beforehand: more of what networks
    take for another class, as far as they know the classes. Flagged are the members of the groups to blame in those
    classes that Benjamini and Hochberg's (1995) procedure names at a level of 5 %. images: uint8 (n, H, W, C), in which
    is seen who else carries what a group shares (``grown``).
    """
    if not classes:
        return Judgement(otherwise, np.zeros(len(otherwise), bool), None, {})
    odds = evidence(classes, effects, transfers, known)
    largest = np.array([own.max() for own in odds])
    knowing = known.knowing()
    deep = _BETWEEN * knowing / _reach(classes, effects, known)
    law = _Natural.of(known.evenly(classes), len(classes))
    p_values = law.exceeds(largest)
    named = _named(p_values)
    next_named = law.exceeded(_LEVEL * min(1, (1 + named.sum()) / len(named)))
    poisoned = 1 / (1 + np.exp(-_STEEP * (largest - next_named)))
    scores, flagged = otherwise * np.prod(1 - poisoned), np.zeros(len(otherwise), bool)
    least = _PRIOR / len(classes)
    for groups, own, shared, log_odds, probability, is_named in zip(
        classes, effects, transfers, odds, poisoned, named, strict=True
    ):
        place = blamed(groups, own, shared, log_odds + deep * _below(own), knowing)
        # Where the class is less probable than any is beforehand, its examples are all at that.
        larger = grown(images, groups[place]) if probability > least else None
        belonging, members = _members(groups[place], own[place], larger, knowing)
        mine = groups[place].examples
        scores[mine] = np.maximum(scores[mine], belonging * probability)
        flagged[mine] = members & is_named
    found = {groups[0].label: float(value) for groups, value in zip(classes, largest, strict=True)}
    beforehand = least + _MISTAKEN * knowing * (1 - known.right)
    return Judgement(np.maximum(scores, beforehand), flagged, _together(p_values), found)


def evidence(
    classes: Sequence[Sequence[Suspects]],
    effects: Sequence[Sequence[Effect]],
    transfers: Sequence[Sequence[Transfer]],
    known: Known,
) -> list[np.ndarray]:
    """The log odds of each group, float64 (groups,) for every class, to be a backdoor's and no natural one.

    Three things speak for it. What its members share *turns strangers* to its label, more than the mean of so many
    images does by nature. The group is *strong and sharp*: the logarithm of its strength times the odds of its
    sharpness, beyond what is usual. And it lies *deep*: without each other its members are of another label, their
    margin as far below 0 as that of groups usually lies above; this counts as far as the networks know the class at all
    (``Known.knowing``). Where they do, a strong group that does not lie deep is taken for a natural one as
    far as it does not: so are hands that write a digit in their own way.
    """
    strengths = [
        np.array([np.log(max(e.strength, _LEAST_STRENGTH)) + _odds(g.sharpness) for g, e in zip(*both, strict=True)])
        for both in zip(classes, effects, strict=True)
    ]
    usual, reach = _usual(classes, strengths), _reach(classes, effects, known)
    found = []
    for groups, own, strong, shared in zip(classes, effects, strengths, transfers, strict=True):
        beyond = strong - [usual[group.kind] for group in groups]
        knowing = np.array([known.knowing(group) for group in groups])
        deep = knowing * _below(own) / reach
        natural = 1 - knowing * (1 - np.minimum(1, deep / _DEEP))
        withheld = _STRENGTH * np.where(beyond > 0, beyond * natural, beyond) + _DEPTH * deep
        smaller = np.array([min(group.members.sum(), (~group.members).sum()) for group in groups])
        shares = [each.turned(e.taken, knows) for each, e, knows in zip(shared, own, knowing, strict=True)]
        moved = _TURNED * (np.log(np.array(shares) + _LEAST_TURNED) + _OF_MANY * np.log(smaller))
        found.append(withheld + moved + _NATURAL)
    return found


def _below(effects: Sequence[Effect]) -> np.ndarray:
    """How far below 0 the members' margin lies without each other, float64 (groups,)."""
    return np.maximum(0, [-effect.alone for effect in effects])


def _reach(classes: Sequence[Sequence[Suspects]], effects: Sequence[Sequence[Effect]], known: Known) -> float:
    """The margin at which groups usually lie with all their mates, at least 1, in the classes that are known best.

    That of the middle class, and by how much the upper quartile of the classes' levels lies above their median: where
    classes are of unlike size, small ones are hardly known, and would make every group look deep.
    """
    levels = [known.levels[groups[0].label] for groups in classes]
    usual = float(np.median([own[0].strength + own[0].alone for own in effects]))
    return max(usual, 1.0) + float(np.quantile(levels, 0.75) - np.median(levels))


def _usual(classes: Sequence[Sequence[Suspects]], strengths: Sequence[np.ndarray]) -> dict[str, float]:
    """What is usual of each kind of group: a margin above this set's lower quartile, so that half of the classes may be
    poisoned, and at most what it is in clean sets, so that all may.
    """
    by_kind: dict[str, list[float]] = {kind: [] for kind in _USUAL}
    for groups, own in zip(classes, strengths, strict=True):
        for group, value in zip(groups, own, strict=True):
            by_kind[group.kind].append(float(value))
    # The rest of a class is as sharp as what it is the rest of.
    by_kind["rest"] = by_kind["strongest"] = by_kind["sharpest"]
    return {
        kind: min(_USUAL[kind], float(np.quantile(values, _QUARTILE)) + _ABOVE[kind]) if values else _USUAL[kind]
        for kind, values in by_kind.items()
    }


def _named(p_values: np.ndarray) -> np.ndarray:
    """bool (K,): those that Benjamini and Hochberg's procedure rejects at the level, of p-values (K,)."""
    order = np.argsort(p_values)
    below = np.flatnonzero(p_values[order] <= _LEVEL * np.arange(1, len(order) + 1) / len(order))
    named = np.zeros(len(order), bool)
    if len(below):
        named[order[: below[-1] + 1]] = True
    return named


def _together(p_values: np.ndarray) -> float:
    """One p-value of several (K,), by Simes (1986): it is at most the level where ``_named`` names any."""
    return float(min(1.0, (len(p_values) * np.sort(p_values) / np.arange(1, len(p_values) + 1)).min()))


def _odds(sharpness: float) -> float:
    """The logarithm of the odds of a sharpness."""
    share = min(max(sharpness, _LEAST_SHARPNESS), 1 - _EXACT)
    return float(np.log(share / (1 - share)))


def _members(
    suspect: Suspects, effect: Effect, larger: tuple[np.ndarray, np.ndarray] | None, knowing: float
) -> tuple[np.ndarray, np.ndarray]:
    """``membership`` of a class's examples in a group of about its size, float64 (n_c,), and who is a member, bool
    (n_c,): more probably than not of the upper of two normal groups.

    Both by how surely each is told as one by the ensemble and by how far its margin falls in the new networks; of a
    larger group that it is a part of (``grown``), by what each carries. As far as that does not tell two groups apart,
    and networks know the classes (knowing, in [0, 1]), also by how little its label is theirs without the group: a
    mislabelled example's is not.
    """
    if larger is None:
        members, ranking = suspect.members, standardised(suspect.fits) + standardised(effect.lift)
    else:
        members, ranking = larger[0], standardised(larger[1])
    unsure = 1 - told_apart(ranking, upper(ranking, members))
    ranking = ranking - _WITHOUT * knowing * unsure * standardised(effect.without)
    above = upper(ranking, members)
    return membership(ranking, float(members.mean()), above), above > 0.5
