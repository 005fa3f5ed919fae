"""FLARE: of all hidden layers, the activations that are the least usual put poisons in a cluster of their own."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Detector, Tools, TrainingView, param

_NEAREST = 10


@dataclass(frozen=True, kw_only=True)
class Flare(Detector):
    """The distance, in an embedding of the least usual activations of each layer, to the large cluster of clean ones.

    The inputs of each batch norm are aligned by its running mean and variance, and the log-likelihood of the least
    likely of them represents an image in that layer. Of all layers, then of all but the last, and so on, UMAP makes two
    dimensions, in which HDBSCAN's hierarchy is followed along the larger cluster of each split, ``depth`` splits deep
    (Algorithm 1): a cluster that lasts over densities (1 / distance) longer than ``stability`` is the clean one, and
    ends the search for layers. All other clusters are flagged; without such a cluster in any set of layers, none. The
    score is the mean distance to the ten nearest of the clean cluster. This is the authors' code; their abstract calls
    the more stable cluster the poisoned one. What is in no cluster is never the clean one here, as it may be there.

    Numbers are the authors' code's (40 neighbours, clusters of at least 100 of 50,000): clusters are of at least
    ``smallest`` of the set, and of ten. A network without batch norms is represented by its convolutions, aligned by
    their mean and variance on the training set. It needs the packages umap-learn and hdbscan: pip install
    'bdbench[flare]'.
    """

    name = "flare"
    paper = (
        "Hou et al., FLARE: Toward Universal Dataset Purification against Backdoor Attacks, TIFS 2025, arXiv:2411.19479"
    )
    assumption = (
        "In some hidden layers, poisons have activations so unusual that they are clusters apart from all others."
    )
    neighbours: int = param(40, help="of UMAP", low=2)
    smallest: float = param(0.002, help="share of the examples that a cluster has at least", low=0, high=1)
    stability: float = param(0.02, help="over what interval of densities the clean cluster lasts at least", low=0)
    depth: int = param(3, help="how many splits of clusters are followed", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Mean distances, float64 (n,); concludes with the clusters apart. Raises BdbenchError without such layers."""
        from bdbench_baselines.activations import least_likely

        if missing := [package for package in ("umap", "hdbscan") if importlib.util.find_spec(package) is None]:
            raise BdbenchError(
                f"defense 'flare' needs the package {missing[0]!r}: expected pip install 'bdbench[flare]'"
            )
        unusual = least_likely(tools.victim, view.images, tools.track)
        smallest = max(10, round(self.smallest * len(unusual)))
        advance = tools.track(unusual.shape[1], "embed")
        for layers in range(unusual.shape[1], 0, -1):
            points, parts = self._divided(unusual[:, :layers], smallest, tools)
            advance(1)
            if parts is not None:
                break
        if parts is None:
            parts = np.zeros(len(unusual), np.int64)
        tools.conclude(flagged=parts == 1)
        return distances(points, points[parts == 0])

    def _divided(self, unusual: np.ndarray, smallest: int, tools: Tools) -> tuple[np.ndarray, np.ndarray | None]:
        from bdbench_baselines.density import apart

        config = {"flare": unusual.shape[1], "neighbours": self.neighbours}
        seed = tools.shared_streams.integer("flare")
        found = tools.saved(config, lambda: {"points": embedded(unusual, self.neighbours, seed)})["points"]
        return found, apart(found, smallest, self.stability, self.depth)


def embedded(points: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    """Points (n, d) in two dimensions by UMAP, float64 (n, 2); as they are in their first two where they are few."""
    if len(points) <= 4:
        wide = np.pad(points, ((0, 0), (0, 2)))
        return wide[:, :2]
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        # That it works on one thread, since a seed is given; and that few points have fewer neighbours.
        warnings.simplefilter("ignore")
        made = UMAP(min(neighbours, len(points) - 1), min_dist=0.0, random_state=seed % 2**32, n_jobs=1)
        return np.asarray(made.fit_transform(points), np.float64)


def distances(points: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The mean distance of each point (n, k) to the ten nearest of ``clean`` (m, k), itself left out, float64 (n,)."""
    from sklearn.neighbors import NearestNeighbors

    count = min(_NEAREST + 1, len(clean))
    found = NearestNeighbors(n_neighbors=count).fit(clean).kneighbors(points)[0]
    # One of the clean has itself at distance 0.
    own = (found[:, :1] == 0) & (count > 1)
    return np.where(own[:, 0], found[:, 1:].sum(1) / max(1, count - 1), found[:, : max(1, count - 1)].mean(1))
