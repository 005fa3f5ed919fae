"""How sharply a group of one class is told from its class-mates by what their margins do over the networks.

Affinity measures an example along one direction, the difference between the members' mean margins and the others'. A
discriminant weighs the networks against what varies inside either side, and each example is judged by one that was
fitted without it; so it sees a group that the affinity sees in a blur, and makes it anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.spectrum import Spectrum

_ROUNDS = 20
# The least variance within the groups of a mixture, in that of the values; scikit-learn's own.
_REGULAR = 1e-6
FEWEST = 4


@dataclass(frozen=True)
class Separation:
    """fits: float64 (n_c,), the discriminant's value of each example; members: bool (n_c,), the group it was fitted
    to; sharpness: the share of the membership's variance that the fits explain, at most 1.
    """

    fits: np.ndarray
    members: np.ndarray
    sharpness: float


def separate(spectrum: Spectrum, start: np.ndarray, affinity: np.ndarray) -> Separation:
    """The group of a class that a discriminant tells from the rest, found from a first guess.

    spectrum: of the class's margins freed of their own inclusion; start: bool (n_c,), the group that was searched;
    affinity: float (n_c,). The first group are those of the upper of two normal groups of affinities. Then the
    membership is regressed on the margins, by ridge (up to a scale Fisher's discriminant, regularised), each example
    fitted without itself; those in the upper of two normal groups of fits are the next group; until it does not change,
    comes again, or 20 times.
    """
    members = upper(affinity, start) > 0.5
    if not _is_group(members):
        members = start
    seen: list[np.ndarray] = []
    for _ in range(_ROUNDS):
        seen.append(members)
        fits, error = spectrum.left_one_out(members.astype(float))
        following = upper(fits, members) > 0.5
        if not _is_group(following) or any((following == earlier).all() for earlier in seen):
            break
        members = following
    return Separation(fits, seen[-1], 1 - error / seen[-1].var())


def upper(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The probability of each of values (n,) to be of the higher of two normal groups of one variance; float64 (n,).

    start: bool (n,), who is thought to be there.
    """
    from sklearn.mixture import GaussianMixture

    if np.ptp(values) == 0:
        return start.astype(float)
    column = standardised(values)[:, None]
    means = np.array([column[~start].mean(0), column[start].mean(0)])
    weights = np.array([(~start).mean(), start.mean()])
    # Given as well, since scikit-learn else draws it, and the end depends on the order of the values.
    within = max(1 - float(between(np.sort(column[:, 0])).max()), _REGULAR)
    mixture = GaussianMixture(
        2, covariance_type="tied", means_init=means, weights_init=weights, precisions_init=[[1 / within]]
    )
    probabilities = mixture.fit(column).predict_proba(column)
    return probabilities[:, mixture.means_[:, 0].argmax()]


def between(ranked: np.ndarray) -> np.ndarray:
    """The variance of values (..., n) in order that lies between two parts, of the first 1, 2, ... n - 1 and the rest.

    The split where it is largest has the least squared error about the means of its parts (Otsu 1979).
    """
    examples = ranked.shape[-1]
    sizes = np.arange(1, examples)
    apart = ranked.cumsum(-1)[..., :-1] - sizes * ranked.mean(-1, keepdims=True)
    return apart**2 / (sizes * (examples - sizes))


def standardised(values: np.ndarray) -> np.ndarray:
    """Values (n,) less their mean and over their deviation; zeros where all are alike."""
    return (values - values.mean()) / max(values.std(), np.finfo(float).tiny)


def _is_group(members: np.ndarray) -> bool:
    return FEWEST <= members.sum() <= len(members) - FEWEST
