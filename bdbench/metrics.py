"""Every published number, with its formula. Peers disagree on several of them; the tests pin these."""

from __future__ import annotations

import numpy as np

from bdbench.data import Role
from bdbench.record import Detection, Performance


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """P(pred = y). Both int64 (n,)."""
    return float(np.mean(predictions == labels))


def performance(
    clean_predictions: np.ndarray,
    triggered_predictions: np.ndarray | None,
    labels: np.ndarray,
    goal: np.ndarray | None,
) -> Performance:
    """The accuracies of one model on a test set; all arrays int64 (n,).

    Clean accuracy CA = P(pred = y) on the clean images. On the triggered images whose true label differs
    from the attacker's goal: attack success rate ASR = P(pred = goal), robust accuracy RA = P(pred = y).
    Both are None where nothing is attacked.
    """
    success = robust = None
    if triggered_predictions is not None and goal is not None and np.any(goal != labels):
        attacked = goal != labels
        success = accuracy(triggered_predictions[attacked], goal[attacked])
        robust = accuracy(triggered_predictions[attacked], labels[attacked])
    return Performance(accuracy(clean_predictions, labels), success, robust)


def rank(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices (n,) from most to least suspicious; ties in random order, so that no tie can favour a role."""
    return np.lexsort((rng.permutation(len(scores)), -scores))


def flagged(ranking: np.ndarray, budget: float) -> np.ndarray:
    """bool (n,): the ``round(budget * n)`` most suspicious."""
    mask = np.zeros(len(ranking), bool)
    mask[ranking[: round(budget * len(ranking))]] = True
    return mask


def detection(scores: np.ndarray, ranking: np.ndarray, roles: np.ndarray, budget: float) -> Detection:
    """How well scores (n,) tell POISON from CLEAN over the whole training set.

    AUROC: P(poison's score > clean's), ties counting a half. Average precision: sum over thresholds of
    (recall gained) * precision. TPR and FPR at budget: the shares of poisons and of clean examples among
    the flagged. TPR at 1 % FPR: the share of poisons met in the ranking before more than 1 % of the clean
    examples. COVER examples count in none of these; cover_flagged is the share of them flagged.
    What needs poisons is None without them.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    poison, clean, cover = roles == Role.POISON, roles == Role.CLEAN, roles == Role.COVER
    removed = flagged(ranking, budget)
    auroc = precision = recall_1pct = None
    if poison.any() and clean.any():
        counted = poison | clean
        auroc = float(roc_auc_score(poison[counted], scores[counted]))
        # Its sum of rounded terms may end above 1.
        precision = min(1.0, float(average_precision_score(poison[counted], scores[counted])))
        false_alarms = np.cumsum(clean[ranking])
        recall_1pct = float(np.mean(false_alarms[poison[ranking]] <= 0.01 * clean.sum()))
    return Detection(
        auroc=auroc,
        average_precision=precision,
        budget=budget,
        tpr_at_budget=_share(removed, poison),
        fpr_at_budget=_share(removed, clean),
        tpr_at_1pct_fpr=recall_1pct,
        cover_flagged=_share(removed, cover),
    )


def _share(flags: np.ndarray, group: np.ndarray) -> float | None:
    return float(flags[group].mean()) if group.any() else None


def defense_effectiveness_rating(before: Performance, after: Performance) -> float | None:
    """DER = (max(0, dASR) - max(0, dCA) + 1) / 2 with d = before - after (Zhu et al. 2023, sec. 4.1)."""
    if before.attack_success_rate is None or after.attack_success_rate is None:
        return None
    gain = max(0.0, before.attack_success_rate - after.attack_success_rate)
    loss = max(0.0, before.clean_accuracy - after.clean_accuracy)
    return (gain - loss + 1) / 2
