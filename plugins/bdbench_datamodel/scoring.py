"""From the groups or subsets that the search found to one score per example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from bdbench_datamodel.search import Cuts
from bdbench_datamodel.separation import Separation, upper
from bdbench_datamodel.standout import TIED, Group

# How probable it is that strength does not tell which class was poisoned; or sharpness, where that is asked.
_TELLS_NOTHING = 0.1
# Whom the mixture of two normal groups takes for the upper one to start with.
_START = 0.1
# No sharpness is so near to 1 that its odds are infinite.
_EXACT = 1e-6


def suspicion(
    groups: Sequence[Group],
    affinities: Sequence[np.ndarray],
    sharpest: Sequence[Separation] | None,
    examples: int,
    share: float,
) -> np.ndarray:
    """About the probability of each example to be a poison, float64 (examples,) in [0, 1].

    affinities: float (n_c,) for each of K groups; sharpest: of each one's class, None for a matrix without margins;
    share: what part of a class the backdoor's group is taken to hold in the mean. The score is the probability of the
    class times that of belonging to its group, each a mean of two, of which either may be right: the
    ``class_posterior`` by strength and by the odds of sharpness, and the ``membership`` by affinity and by the sharpest
    group's fits. So the budget is spread over several classes where it is not clear which was poisoned, and over all of
    one where it is not clear which part of it was. Whoever is less probable than before anything was known, share / K,
    gets that, and so do examples of classes without a group: what is left of the budget then falls at random, and not
    on the natural groups of classes that nothing speaks for.
    """
    probabilities = class_posterior(np.array([group.strength for group in groups]))
    rankings = [[values] for values in affinities]
    if sharpest is not None:
        probabilities = (probabilities + _by_sharpness(np.array([found.sharpness for found in sharpest]))) / 2
        rankings = [[values, found.fits] for values, found in zip(affinities, sharpest, strict=True)]
    scores = np.zeros(examples)
    for group, probability, ranking in zip(groups, probabilities, rankings, strict=True):
        scores[group.examples] = probability * np.mean([membership(values, share) for values in ranking], axis=0)
    return np.maximum(scores, share / len(groups))


def _by_sharpness(sharpness: np.ndarray) -> np.ndarray:
    """``class_posterior`` of K classes by the odds of sharpness (K,), among those where anything was told at all.

    A class that is too small to be looked at, or was told nothing of, is as likely as before, and so is each where
    there are fewer than three to compare.
    """
    told = sharpness > 0
    probabilities = np.full(len(sharpness), 1 / len(sharpness))
    if told.sum() > 2:
        shares = np.minimum(sharpness[told], 1 - _EXACT)
        probabilities[told] = told.mean() * class_posterior(shares / (1 - shares))
    return probabilities


def class_posterior(strengths: np.ndarray) -> np.ndarray:
    """The probability of each of K classes to be the poisoned one, float64 (K,), of sum 1.

    strengths: float (K,), of the classes' groups, or another measure by which a poisoned one lies above the others, on
    a scale of ratios. If it is class c, then the logarithms of the other K - 1 are from one normal law, of whose mean
    and deviation nothing is known before; integrated over these (with density 1 / deviation) their likelihood is
    proportional to S_c^(-(K - 2) / 2), where S_c is the sum of squares about their own mean; and the logarithm of c's
    own lies somewhere above that mean. A strength that is not positive is of a class where nothing was found, and is
    neither. With a probability of .1 strength tells nothing: then each class is as likely.
    """
    told = (strengths > 0).astype(float)
    if told.any():
        logs = np.log(strengths[strengths > 0])
        logs -= logs.mean()
        count = len(logs)
        # Of the others, seen from the mean of all: theirs is -log / (K - 1).
        squares = (logs**2).sum() - logs**2 * count / max(count - 1, 1)
        likelihoods = -(count - 2) / 2 * np.log(np.maximum(squares, TIED**2))
        if np.ptp(logs) > TIED:
            likelihoods[logs <= 0] = -np.inf
        told[told > 0] = np.exp(likelihoods - likelihoods.max())
    else:
        told[:] = 1
    return (1 - _TELLS_NOTHING) * told / told.sum() + _TELLS_NOTHING / len(told)


def membership(values: np.ndarray, share: float, above: np.ndarray | None = None) -> np.ndarray:
    """The probability of each example of a class to belong to its group, float64 (n_c,), which orders as values do.

    A mean of two guesses: values (n_c,) are of two normal groups of one variance, and the group is the upper of them;
    or the group is whatever comes first, of a size that is exponentially distributed with a mean of ``share`` of the
    class. The first may draw its border in the wrong place, the second draws none. So the first counts as far as its
    groups are apart: by the share of the variance of values that lies between them (eta squared). above: float (n_c,),
    the probability to be of the upper one; None: as a mixture that starts at the first tenth has it.
    """
    if above is None:
        above = upper(
            values, (stats.rankdata(-values, "min") <= max(1, _START * len(values))) & (values > values.min())
        )
    before = (stats.rankdata(-values) - 1) / len(values)
    apart = told_apart(values, above)
    return apart * above + (1 - apart) * np.exp(-before / share)


def told_apart(values: np.ndarray, above: np.ndarray) -> float:
    """The share of the variance of values (n,) between two groups; above: probabilities (n,) to be of the upper one."""
    weight, variance = above.mean(), values.var()
    if variance == 0 or not 0 < weight < 1:
        return 0.0
    distance = np.average(values, weights=above) - np.average(values, weights=1 - above)
    return float(weight * (1 - weight) * distance**2 / variance)


def selection_frequency(cuts: Iterable[Cuts], examples: int) -> np.ndarray:
    """sum over sizes k of (share of starts that selected the example) / k, float64 (n,).

    The paper's score (Khaddaj et al. 2023, sec. 5), with the share in place of the number of times, so that
    it does not grow with the number of starts. Where each class is searched for itself, k is what the size would be in
    a class of mean size: else small classes would come first for being small.
    """
    total = np.zeros(examples)
    for cut in cuts:
        total += cut.frequency(examples) / (cut.size * cut.enlarged)
    return total
