"""The other floor: poisons are learned early and well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView


def log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p(y | x), minus the cross-entropy, float64 (n,), of logits (n, K) and labels (n,)."""
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))
    # Relative to the label's own logit, so that a loss far below the float resolution still ranks.
    others = logits - logits[rows, labels][:, None]
    others[rows, labels] = -np.inf
    top = others.max(1)
    log_odds_against = top + np.log(np.exp(others - top[:, None]).sum(1))
    return -np.logaddexp(0.0, log_odds_against)


@dataclass(frozen=True, kw_only=True)
class LowLoss(Detector):
    """Minus the victim's cross-entropy on each training example: lowest loss first."""

    name = "low-loss"
    paper = "the isolation step of Li et al., Anti-Backdoor Learning, NeurIPS 2021, at the end of training"
    assumption = "A trained model is surer of poisons than of clean examples."

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """log p(y | x), float64 (n,)."""
        return log_likelihood(tools.victim.logits(view.images), view.labels)
