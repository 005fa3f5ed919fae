"""Activation clustering: the features of a poisoned label fall into two clusters of unlike size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Detector, Tools, TrainingView, param


def two_clusters(features: np.ndarray, components: int, reduction: Literal["ica", "pca"], seed: int) -> np.ndarray:
    """The cluster, 0 or 1, of each of one label's features (n, d): reduce to ``components``, then 2-means.

    Chen et al. 2018, sec. 4. All examples of the label are clustered at once. Fewer than 3 distinct
    examples are one cluster.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    features = features.astype(np.float64)
    # Dead units make the data rank-deficient, which whitening cannot take; and where the first one is dead,
    # scikit-learn's FastICA multiplies every component by the sign of zero.
    features = features[:, np.ptp(features, axis=0) > 0] if len(features) else features
    centred = features - features.mean(0)
    rank = int(np.linalg.matrix_rank(centred)) if features.size else 0
    if rank < 2 or len(features) < 3:
        return np.zeros(len(features), np.int64)
    dimensions = min(components, rank)
    reducer = (
        FastICA(dimensions, whiten="unit-variance", random_state=seed, max_iter=1000, tol=5e-3)
        if reduction == "ica"
        else PCA(dimensions, svd_solver="full")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reduced = reducer.fit_transform(features)
    return KMeans(2, n_init=10, random_state=seed).fit_predict(reduced).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class ActivationClustering(Detector):
    """2-means on the reduced features of each label; the smaller a cluster's share, the more suspicious.

    The score is 1 - |cluster| / |label|: the relative-size rule of the paper (sec. 4.1) without a
    threshold, so that members of all clusters can be ranked together.
    """

    name = "activation-clustering"
    paper = "Chen et al., Detecting Backdoor Attacks by Activation Clustering, SafeAI 2019, arXiv:1811.03728"
    components: int = param(10, help="dimensions kept before clustering", low=2)
    reduction: Literal["ica", "pca"] = param("ica", help="independent components, as the paper, or principal ones")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """1 - the share of the example's cluster in its label, float64 (n,)."""
        features = tools.victim.features(view.images)
        seed = tools.streams.integer("clustering") % 2**32
        labels = np.unique(view.labels)
        scores = np.zeros(len(view.labels))
        advance = tools.track(len(labels), "cluster")
        for label in labels:
            members = view.labels == label
            cluster = two_clusters(features[members], self.components, self.reduction, seed)
            sizes = np.bincount(cluster, minlength=2)
            scores[members] = 1 - sizes[cluster] / members.sum()
            advance(1)
        return scores
