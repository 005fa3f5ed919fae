"""Activation clustering: the features of a poisoned label fall into two clusters of unlike size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Detector, Tools, TrainingView, param


def reduced(features: np.ndarray, components: int, reduction: Literal["ica", "pca"], seed: int) -> np.ndarray | None:
    """One label's features (n, d) in at most ``components`` dimensions; None where there are no two clusters in them.

    Chen et al. 2018, sec. 4. All examples of the label are reduced at once. Fewer than 3 distinct examples are one
    cluster.
    """
    import warnings

    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    features = features.astype(np.float64)
    # Dead units make the data rank-deficient, which whitening cannot take; and where the first one is dead,
    # scikit-learn's FastICA multiplies every component by the sign of zero.
    features = features[:, np.ptp(features, axis=0) > 0] if len(features) else features
    centred = features - features.mean(0)
    rank = int(np.linalg.matrix_rank(centred)) if features.size else 0
    if rank < 2 or len(features) < 3:
        return None
    dimensions = min(components, rank)
    reducer = (
        FastICA(dimensions, whiten="unit-variance", random_state=seed, max_iter=1000, tol=5e-3)
        if reduction == "ica"
        else PCA(dimensions, svd_solver="full")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return reducer.fit_transform(features)


def two_clusters(points: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """The cluster, 0 or 1, of each of ``count`` points (count, k) by 2-means; the larger is 0. None: one cluster."""
    from sklearn.cluster import KMeans

    if points is None:
        return np.zeros(count, np.int64)
    cluster = KMeans(2, n_init=10, random_state=seed).fit_predict(points).astype(np.int64)
    return 1 - cluster if 2 * cluster.sum() > count else cluster


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Detector):
    """2-means on the reduced features of each label; the smaller cluster of a label is suspected, all others score 0.

    rule: what decides whether it is poisonous, and what its members score (sec. 4 of the paper). relative-size: it
    holds less than ``size`` of the label; 1 - that share. silhouette: the two clusters fit the label, by a silhouette
    above ``silhouette``; the silhouette. exclusionary: a model trained without the smaller clusters (of all labels at
    once, so that one training does) gives more of it to some other label than to its own; p / (l + p), with l the
    number it gives to its own label and p that to the most frequent other one. The paper reduces by independent
    components; docs/experiments.md says why principal ones are the default here.
    """

    name = "activation-clustering"
    paper = "Chen et al., Detecting Backdoor Attacks by Activation Clustering, SafeAI 2019, arXiv:1811.03728"
    assumption = (
        "Poisons get their label for other reasons than clean examples do, so that the activations of a poisoned label "
        "fall into two clusters, of which the smaller holds the poisons."
    )
    components: int = param(10, help="dimensions kept before clustering", low=2)
    reduction: Literal["ica", "pca"] = param("pca", help="principal components, or independent ones, as the paper")
    rule: Literal["relative-size", "silhouette", "exclusionary"] = param(
        "relative-size", help="what tells a poisonous cluster: its size, its fit, or a model trained without it"
    )
    size: float = param(0.35, help="relative-size: a smaller share of its label is poisonous", low=0, high=0.5)
    silhouette: float = param(0.15, help="silhouette: a label above it is poisoned", low=0, high=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """How suspicious each example's cluster is by the rule, float64 (n,); concludes with what the rule flags."""
        from sklearn.metrics import silhouette_score

        features = tools.victim.features(view.images)
        seed = tools.streams.integer("clustering") % 2**32
        labels = np.unique(view.labels)
        smaller, scores = np.zeros(len(view.labels), bool), np.zeros(len(view.labels))
        advance = tools.track(len(labels), "cluster")
        for label in labels:
            members = view.labels == label
            points = reduced(features[members], self.components, self.reduction, seed)
            cluster = two_clusters(points, int(members.sum()), seed)
            smaller[members] = cluster == 1
            if self.rule == "relative-size":
                scores[members] = cluster * (1 - cluster.mean())
            elif self.rule == "silhouette" and cluster.any():
                scores[members] = cluster * max(0.0, silhouette_score(points, cluster))
            advance(1)
        if self.rule == "exclusionary":
            scores = _reclassified(view, smaller, tools)
        limit = {"relative-size": 1 - self.size, "silhouette": self.silhouette, "exclusionary": 0.5}[self.rule]
        tools.conclude(flagged=smaller & (scores > limit))
        return scores


def _reclassified(view: TrainingView, smaller: np.ndarray, tools: Tools) -> np.ndarray:
    """p / (l + p) of each smaller cluster by a model trained without any of them; 0 elsewhere."""
    scores = np.zeros(len(smaller))
    if not smaller.any():
        return scores
    model = tools.train(view.images[~smaller], view.labels[~smaller], "without the smaller clusters")
    predicted = model.predict(view.images)
    for label in np.unique(view.labels[smaller]):
        members = smaller & (view.labels == label)
        votes = np.bincount(predicted[members], minlength=view.num_classes)
        own, votes[label] = votes[label], 0
        scores[members] = votes.max() / max(1, own + votes.max())
    return scores
