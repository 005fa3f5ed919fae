"""SCAn: the features of a poisoned label are a mixture of two groups, where those of the others are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bdbench import Detector, Tools, TrainingView, param
from bdbench_baselines.anomaly import CONTAMINATED, index

# When the covariances hardly change any more, or after so many steps.
_STILL, _STEPS = 1e-5, 100
# Examples of a label for each component.
_EACH = 10


class Model(NamedTuple):
    """The global model: x - mean = u + e, with u of the label's and e of the example's own.

    basis: (d, r), which makes the covariance of e the unit matrix and that of u diagonal; between: (r,), that diagonal.
    Directions in which e does not vary are left out.
    """

    basis: np.ndarray
    between: np.ndarray


class Split(NamedTuple):
    """One label in two: second, bool (n,), a group; gap, (n,), how much nearer each is to its mean than to the other's,
    in squared Mahalanobis distances; statistic: of the likelihood ratio, for each example.
    """

    second: np.ndarray
    gap: np.ndarray
    statistic: float


@dataclass(frozen=True, kw_only=True)
class Scan(Detector):
    """Tests for each label whether two means explain its features better than one, with a covariance that all share.

    Sec. 4 of the paper: an EM finds the covariances of what labels have in common and of what examples have of their
    own (``global_model``); with the latter, the features of each label are split in two (``halved``), and the
    likelihood ratio of two means to one is its statistic. Labels whose statistic lies above e^2 median absolute
    deviations from the median are contaminated, and of these one group is flagged. The score is how much nearer an
    example is to the suspected group's mean than to the other's.

    ``oracle=true`` fits the first step to clean examples, as the paper does, and suspects the group that has the
    smaller share of the label's clean ones. The default fits it to the training set itself, in which one label's
    mixture counts little among the others, and suspects the smaller group. The statistic is divided by the label's
    size, as in the authors' code: otherwise large labels would be suspect. Two means are found by 2-means in the
    whitened space, best of ten starts, which is the authors' hard EM of one start.

    The paper's labels have 5,000 examples, and its features are used whole. Whitening makes all their directions as
    long as each other, so that with few examples two means split the noise: here features are projected on their
    principal components first, one for ten examples of a label (docs/experiments.md has what that is worth).
    """

    name = "scan"
    paper = (
        "Tang et al., Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection, "
        "USENIX Security 2021"
    )
    assumption = (
        "Poisons are represented unlike the target label's own examples, and all labels vary about their means in the "
        "same way."
    )
    oracle: bool = param(False, help="fit what labels have in common to clean examples", oracle="clean_set")
    clean: int | None = param(None, help="clean examples to use, if told (none: all that are set apart)", low=1)
    components: int | None = param(
        None, help="principal components to project on (none: one for ten examples of a label, in the median)", low=1
    )
    threshold: float = param(CONTAMINATED, help="the anomaly index from which on a label is contaminated", low=0)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Differences of squared distances, float64 (n,); concludes with the groups of contaminated labels."""
        features, labels = tools.victim.features(view.images).astype(np.float64), view.labels
        trusted, their_labels = features[:0], labels[:0]
        if self.oracle:
            clean = tools.clean_examples(self.clean)
            trusted, their_labels = tools.victim.features(np.asarray(clean.images)).astype(np.float64), clean.labels
        axes = principal(features, self.components or int(np.median(np.unique(labels, return_counts=True)[1])) // _EACH)
        features, trusted = features @ axes, trusted @ axes
        fitted = (trusted, their_labels) if self.oracle else (features, labels)
        model = global_model(*fitted)
        mean = features.mean(0)
        names, scores = np.unique(labels), np.zeros(len(labels))
        second, statistics = np.zeros(len(labels), bool), np.full(len(names), np.nan)
        advance = tools.track(len(names), "untangle")
        for place, label in enumerate(names):
            members, theirs = labels == label, trusted[their_labels == label]
            seed = tools.streams.integer(f"groups:{label}") % 2**32
            found = halved(features[members] - mean, theirs - mean, model, seed)
            scores[members], second[members], statistics[place] = found.gap, found.second, found.statistic
            advance(1)
        contaminated = names[index(statistics) > self.threshold]
        tools.conclude(flagged=second & np.isin(labels, contaminated))
        return scores


def principal(features: np.ndarray, count: int) -> np.ndarray:
    """The directions (d, k) in which features (n, d) vary most, k being ``count``, at least 1, or d if that is less."""
    centred = features - features.mean(0)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, : max(1, count)]


def global_model(features: np.ndarray, labels: np.ndarray) -> Model:
    """Fit by EM to features (n, d) and their labels (n,): x is normal about u of its label, and u about the mean."""
    from scipy.linalg import eigh

    names, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centred = features - features.mean(0)
    sums = np.zeros((len(names), features.shape[1]))
    np.add.at(sums, group, centred)
    own = centred - (sums / counts[:, None])[group]
    values, vectors = np.linalg.eigh(own.T @ own / len(own))
    there = values > 1e-10 * max(values[-1], np.finfo(float).tiny)
    span = vectors[:, there] / np.sqrt(values[there])
    means, shares = sums @ span / counts[:, None], counts / len(labels)
    # In these coordinates, in which what examples have of their own is the unit matrix to begin with.
    within = np.eye(span.shape[1])
    between, inner = (means.T * shares) @ means, within
    for _ in range(_STEPS if span.size else 0):
        spread, axes = eigh(between, inner)
        along = counts[:, None] * (means @ axes)
        expected = along * (spread / (counts[:, None] * spread + 1)) @ axes.T @ inner
        before = (between, inner)
        off = means - expected
        between, inner = (expected.T * shares) @ expected, within + (off.T * shares) @ off
        if sum(np.linalg.norm(new - old) for new, old in zip((between, inner), before, strict=True)) < _STILL:
            break
    spread, axes = eigh(between, inner) if span.size else (np.zeros(0), within)
    return Model(span @ axes, np.maximum(spread, 0))


def halved(features: np.ndarray, trusted: np.ndarray, model: Model, seed: int) -> Split:
    """One label's features (n, d), and its trusted ones (m, d), split in two; NaN where there are no two points."""
    from sklearn.cluster import KMeans

    points, count = features @ model.basis, len(features)
    if count < 3 or not points.size or not np.ptp(points, axis=0).any():
        return Split(np.zeros(count, bool), np.zeros(count), np.nan)
    means = KMeans(2, n_init=10, random_state=seed).fit(points).cluster_centers_
    gap, theirs = (_nearer(x, means) for x in (points, trusted @ model.basis))
    second = gap > 0
    smaller = 2 * second.sum() <= count if not len(theirs) else (theirs > 0).mean() * count <= second.sum()
    # The mean of one group is the expectation of the label's u.
    single = points.sum(0) * model.between / (count * model.between + 1)
    nearest = np.where(second[:, None], means[1], means[0])
    statistic = (((points - single) ** 2).sum() - ((points - nearest) ** 2).sum()) / count
    return Split(second if smaller else ~second, gap if smaller else -gap, float(statistic))


def _nearer(points: np.ndarray, means: np.ndarray) -> np.ndarray:
    """How much nearer points (n, r) are to the second of two means (2, r) than to the first, squared."""
    return np.asarray(((points - means[0]) ** 2).sum(1) - ((points - means[1]) ** 2).sum(1))
