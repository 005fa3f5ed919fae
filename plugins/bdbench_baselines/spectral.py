"""Spectral signatures: poisons stand out along the top singular vector of their label's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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


def _scaled(scores: np.ndarray) -> np.ndarray:
    return scores / (scores.mean() or 1.0)


def _ranked(scores: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(scores) / len(scores)


_ACROSS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"raw": lambda s: s, "scaled": _scaled, "rank": _ranked}


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(Detector):
    """The outlier score of the paper within each label, told no rate, and without a decision of its own.

    The paper removes as many of every label, for which the number of poisons has to be known. Here the harness removes
    its budget of all labels together. ``oracle=true`` is told the rate, and decides as Algorithm 1 does: it flags 1.5
    times as many examples of every label as there are poisons in the whole set (for all that the defender knows, they
    may all be in that label), or all of a label that is smaller. ``across`` says how labels compare: raw: squared
    projections as they are; scaled: each label's divided by their mean; rank: the place within the label, so that the
    same share of every label goes, which is the paper's rule with the budget in place of epsilon.
    """

    name = "spectral"
    paper = "Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018"
    assumption = (
        "In the features of the target label, the mean of the poisons lies so far from that of the clean examples that "
        "the top singular vector tells them apart."
    )
    centered: bool = param(True, help="project centred features, as the paper; false: raw ones, as peers do")
    across: Literal["raw", "scaled", "rank"] = param(
        "raw", help="compare labels by squared projections, by these over their label's mean, or by rank in the label"
    )
    oracle: bool = param(False, help="decide by the paper's rule, told the poison rate", oracle="poison_rate")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Squared projections, made comparable across labels, float64 (n,)."""
        features = tools.victim.features(view.images)
        scores = np.zeros(len(view.labels))
        for label in np.unique(view.labels):
            members = view.labels == label
            scores[members] = _ACROSS[self.across](spectral_scores(features[members], self.centered))
        if self.oracle:
            tools.conclude(flagged=self._flagged(scores, view.labels, tools))
        return scores

    def _flagged(self, scores: np.ndarray, labels: np.ndarray, tools: Tools) -> np.ndarray:
        count = round(1.5 * tools.oracle("poison_rate") * len(scores))
        flagged, chance = np.zeros(len(scores), bool), tools.streams("ties").permutation(len(scores))
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            flagged[members[np.lexsort((chance[members], -scores[members]))[:count]]] = True
        return flagged
