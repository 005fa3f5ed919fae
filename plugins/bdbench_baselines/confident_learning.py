"""Confident learning by the package cleanlab: labels that models which never saw them do not believe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bdbench import BdbenchError, Detector, Tools, TrainingView, param
from bdbench_baselines.low_loss import log_likelihood


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning(Detector):
    """Minus the log-probability of an example's label by a model trained without it; cleanlab says what is an issue.

    ``folds`` models are trained, each without one part of the set, which it then judges; every label is spread over all
    parts. The score ranks as cleanlab's default, self-confidence, does. The decision is its ``find_label_issues``: from
    the joint distribution of given and true labels, estimated by counting who is above the mean confidence of a class
    (sec. 3.1 of the paper), ``rule`` prunes (sec. 3.2): by the noise rate of each pair of labels (cleanlab's default),
    by that of each label, both, all that is counted off the diagonal, or, the baseline, all that is predicted
    otherwise. Needs the extra cleanlab.
    """

    name = "cleanlab"
    paper = "Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021"
    assumption = (
        "Poisons bear a wrong label, by which of two labels is confused with which, and a model that has not seen an "
        "example tells its true one."
    )
    folds: int = param(5, help="parts that models are trained without, one each", low=2)
    rule: Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"] = param(
        "prune_by_noise_rate", help="cleanlab's filter_by: how label issues are chosen"
    )

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """-log p(y | x) out of sample, float64 (n,); concludes with cleanlab's label issues.

        Raises BdbenchError if cleanlab is not installed.
        """
        import warnings

        from scipy.special import softmax

        find_label_issues = _cleanlab().find_label_issues
        part = spread(view.labels, self.folds, tools.streams("folds"))
        logits = np.zeros((len(part), view.num_classes))
        for fold in np.unique(part):
            held = part == fold
            model = tools.train(view.images[~held], view.labels[~held], f"without part {fold}")
            logits[held] = model.logits(view.images[held])
        issues = np.zeros(len(part), bool)
        # cleanlab asks for two labels: among one there is nothing to confuse. And it warns of each that is rare.
        if len(np.unique(view.labels)) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                issues = find_label_issues(view.labels, softmax(logits, axis=1), filter_by=self.rule, n_jobs=1)
        tools.conclude(flagged=issues)
        return -log_likelihood(logits, view.labels)


def spread(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The part of each example, int64 (n,) in 0..folds - 1: drawn, of equal sizes, each with its share of each label.

    There are no more parts than examples.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(len(labels), np.int64)
    part[order] = np.arange(len(labels)) % folds
    return part


def _cleanlab() -> Any:
    try:
        import cleanlab.filter
    except ImportError:
        raise BdbenchError("defense 'cleanlab' needs cleanlab: expected pip install 'bdbench[cleanlab]'") from None
    return cleanlab.filter
