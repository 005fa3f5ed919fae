"""Spectral signatures: poisons stand out along the top singular vector of their label's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView, param


def spectral_scores(features: np.ndarray, centered: bool = True) -> np.ndarray:
    """Squared projections (n,) of one label's features (n, d) on their top singular direction.

    Algorithm 1 of Tran et al. 2018: M = [R(x_i) - mean], v the top right singular vector of M, and the
    score is ((R(x_i) - mean) . v)^2. ``centered=False`` projects the raw features on the same v, as
    BackdoorBench, ART and the authors' released script do.
    """
    features = features.astype(np.float64)
    shifted = features - features.mean(0)
    top = np.linalg.svd(shifted, full_matrices=False)[2][0]
    return ((shifted if centered else features) @ top) ** 2


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(Detector):
    """The outlier score of the paper within each label, compared across labels as it is.

    The paper removes 1.5 times the poison rate from every label; here all scores are ranked together and
    the harness removes its budget, so that no rate has to be known.
    """

    name = "spectral"
    paper = "Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018"
    centered: bool = param(True, help="project centred features, as the paper; false: raw ones, as peers do")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Squared projections, float64 (n,)."""
        features = tools.victim.features(view.images)
        scores = np.zeros(len(view.labels))
        for label in np.unique(view.labels):
            members = view.labels == label
            scores[members] = spectral_scores(features[members], self.centered)
        return scores
