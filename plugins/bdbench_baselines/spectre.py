"""SPECTRE: once whitened by what most of a label's examples are like, the poisons stand out in all directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bdbench import Detector, Tools, TrainingView, param
from bdbench_baselines.robust import covariance, moments, whitener

# As the authors' code: how many examples are left out of the covariance, and how many are removed, for each poison.
_LEFT_OUT, _REMOVED = 2.0, 1.5
# More than this share of a label is no minority, which the estimates need.
_MOST = 1 / 3
# Examples of a label for each component.
_EACH = 10


class Found(NamedTuple):
    """Of one label: the QUE scores (n,) in the dimension chosen, and their mean once the suspects are out of the
    covariance, which is large where there are poisons.
    """

    scores: np.ndarray
    strength: float


@dataclass(frozen=True, kw_only=True)
class Spectre(Detector):
    """The QUE score of each example within its label, whitened by a robust mean and covariance.

    Sec. 3 of the paper: the features of a label are projected on their top k singular vectors; a mean and a covariance
    are estimated that a share of outliers hardly moves (see ``robust``), and whiten them; with S the second moment of
    all whitened examples h, and Q = exp(alpha (S - 1) / (|S| - 1)), the QUE score is h' Q h / tr Q. k is the one of
    ten, from 1 to ``components`` in even steps of their roots, for which the mean QUE score is largest when the 1.5
    epsilon examples of largest score are left out of the covariance, in all ``components`` dimensions. By the same
    number the target is chosen among the labels; the decision is to remove 1.5 epsilon examples of it, always, as the
    paper does. The paper ranks within that label only; here all examples get the score of their own label's whitening,
    so that ranks between labels hang on k, which differs from label to label.

    epsilon, the number of poisons, has to be known in the paper. Here it is the share ``bound`` of each label;
    ``oracle=true`` is told it, up to a third of a label. The paper's labels have 5,000 examples; here a label
    has at most a component for ten examples, since with fewer the covariance is that of its noise. For k = 1 the
    authors' code does not whiten, which makes no difference within a label.
    """

    name = "spectre"
    paper = "Hayase et al., SPECTRE: Defending Against Backdoor Attacks Using Robust Statistics, ICML 2021"
    assumption = (
        "The poisons are a small share of the target label, and in its features they lie apart from the clean ones, "
        "if only along directions in which those vary little."
    )
    components: int = param(100, help="the most dimensions that features are projected on", low=1)
    alpha: float = param(4.0, help="how much the directions of largest variance count, once whitened", low=0)
    bound: float = param(0.1, help="the share of a label that may be poisons, if untold", low=0, high=_MOST)
    oracle: bool = param(False, help="be told the poison rate in place of the bound", oracle="poison_rate")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """QUE scores, float64 (n,); concludes with the suspects of the label that it takes for the target."""
        features = tools.victim.features(view.images)
        labels = np.unique(view.labels)
        scores, strengths, suspects = np.zeros(len(view.labels)), [], []
        advance = tools.track(len(labels), "whiten")
        for label in labels:
            members = np.flatnonzero(view.labels == label)
            poisons = len(features) * tools.oracle("poison_rate") if self.oracle else self.bound * len(members)
            poisons = min(poisons, _MOST * len(members))
            found = examined(features[members], poisons, self.components, self.alpha)
            scores[members] = found.scores
            strengths.append(found.strength)
            chance = tools.streams(f"ties:{label}").permutation(len(members))
            suspects.append(members[np.lexsort((chance, -found.scores))[: round(_REMOVED * poisons)]])
            advance(1)
        flagged = np.zeros(len(scores), bool)
        flagged[suspects[int(np.argmax(strengths))]] = max(strengths) > 0
        tools.conclude(flagged=flagged)
        return scores


def examined(features: np.ndarray, poisons: float, components: int, alpha: float) -> Found:
    """One label's features (n, d), of which about ``poisons`` may be; all 0 where too few of them differ."""
    n = len(features)
    removed = round(_REMOVED * poisons)
    points = _principal(features, min(components, n // _EACH or 1))
    if not points.shape[1]:
        return Found(np.zeros(n), 0.0)
    share = max(poisons, 1) / n
    best = Found(np.zeros(n), -np.inf)
    for k in np.unique(np.rint(np.linspace(1, np.sqrt(points.shape[1]), 10) ** 2).astype(int)):
        inner = points[:, :k]
        scores = que(inner, *moments(inner, share, round(_LEFT_OUT * poisons)), alpha)
        rest = points[np.argsort(scores, kind="stable")[: n - removed]]
        strength = float(que(points, rest.mean(0), covariance(rest), alpha).mean())
        best = max(best, Found(scores, strength), key=lambda found: found.strength)
    return best


def que(points: np.ndarray, mean: np.ndarray, spread: np.ndarray, alpha: float) -> np.ndarray:
    """Quantum entropy scores (n,) of points (n, k), whitened by a mean (k,) and a covariance (k, k)."""
    from scipy.special import softmax

    white = (points - mean) @ whitener(spread)
    values, vectors = np.linalg.eigh(white.T @ white / len(white))
    # Where nothing was left out the covariance is that of all, and what differs from 1 is rounding.
    excess = (values - 1) / (values[-1] - 1) if values[-1] > 1 + 1e-9 else np.zeros(len(values))
    return np.asarray((white @ vectors) ** 2 @ softmax(alpha * excess))


def _principal(features: np.ndarray, components: int) -> np.ndarray:
    """Features (n, d) on their first principal components, fewer where there are no more, (n, k)."""
    features = features.astype(np.float64)
    if len(features) < 2 or components < 1:
        return np.zeros((len(features), 0))
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    # Less than this is rounding of what float32 features have.
    there = values > 1e-12 * max(values[-1], np.finfo(float).tiny)
    return centred @ vectors[:, there][:, ::-1][:, :components]
