"""Every published number, with its formula. Peers disagree on several of them; the tests pin these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.images.data import ANY_OTHER, Challenge, Role
from bdbench.storage.record import Decision, Derived, Detection, Inputs, Performance

REFUSED = -1
# Inputs are refused at the threshold that refuses this share of the reserve.
REFUSED_SHARE = 0.05


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """P(pred = y). Both int64 (n,)."""
    return float(np.mean(predictions == labels))


def performance(
    predictions: np.ndarray,
    labels: np.ndarray,
    challenge: Challenge | None = None,
    challenged: np.ndarray | None = None,
    shown: np.ndarray | None = None,
) -> Performance:
    """What one model did on a test set and a challenge; a refusal, -1, is neither right nor what an attacker wants.

    predictions, labels: int64 (n,), on the test images; challenged: int64 (m,), on the challenge's; shown: bool (n,),
    which test images it shows as they are (None: none). With y the label of the image that a row was made of: the rows
    with goal != y are attacked (A), those with goal = y bystanders (B), and the targets T are the goals of A. Where the
    goal is ANY_OTHER, pred = goal reads: pred is a label, and not y; such a goal is no target.

    Clean accuracy CA = P(pred = y) over the test images that no row shows unchanged.
    Attack success rate ASR = P(pred = goal | A); robust accuracy RA = P(pred = y | A).
    by_goal: ASR for each goal, where there are several, and worst_goal the highest of them.
    bystander_accuracy = P(pred = y | B); spill = P(pred in T | B, y not in T).
    """
    if challenge is None or challenged is None:
        return Performance(accuracy(predictions, labels), None, None)
    truth, goal = labels[challenge.index], challenge.goal
    attacked = goal != truth
    own = slice(None) if shown is None else ~shown
    clean = accuracy(predictions[own], labels[own])
    if not attacked.any():
        return Performance(clean, None, None)
    obeyed = challenge.obeyed(challenged, labels)
    goals = np.unique(goal[attacked])
    each = {"any other" if t == ANY_OTHER else str(t): float(obeyed[attacked & (goal == t)].mean()) for t in goals}
    targets = goals[goals != ANY_OTHER]
    strangers = ~attacked & ~np.isin(truth, targets)
    return Performance(
        clean_accuracy=clean,
        attack_success_rate=float(obeyed[attacked].mean()),
        robust_accuracy=accuracy(challenged[attacked], truth[attacked]),
        by_goal=each if len(each) > 1 else None,
        worst_goal=max(each.values()) if len(each) > 1 else None,
        bystander_accuracy=accuracy(challenged[~attacked], truth[~attacked]) if (~attacked).any() else None,
        spill=float(np.isin(challenged[strangers], targets).mean()) if len(targets) and strangers.any() else None,
    )


def rank(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices (n,) from most to least suspicious; ties in random order, so that no tie can favour a role."""
    return np.lexsort((rng.permutation(len(scores)), -scores))


def flagged(ranking: np.ndarray, budget: float) -> np.ndarray:
    """bool (n,): the ``round(budget * n)`` most suspicious."""
    mask = np.zeros(len(ranking), bool)
    mask[ranking[: round(budget * len(ranking))]] = True
    return mask


def detection(scores: np.ndarray, ranking: np.ndarray, roles: np.ndarray, budget: float | None) -> Detection:
    """How well scores (n,) tell POISON from CLEAN over the whole training set.

    AUROC: P(poison's score > clean's), ties counting a half. Average precision: sum over thresholds of
    (recall gained) * precision. TPR and FPR at budget: the shares of poisons and of clean examples among
    the flagged; None without a budget, or one of 0. TPR at 1 % FPR: the share of poisons met in the ranking before
    more than 1 % of the clean examples. COVER examples count in none of these; cover_flagged is the share of them
    flagged. What needs poisons is None without them.
    """
    poison, clean, cover = roles == Role.POISON, roles == Role.CLEAN, roles == Role.COVER
    removed = flagged(ranking, budget) if budget else None
    auroc = precision = recall_1pct = None
    if poison.any() and clean.any():
        from sklearn.metrics import average_precision_score

        counted = poison | clean
        auroc = _auroc(scores[poison], scores[clean])
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


def decision(chosen: np.ndarray, roles: np.ndarray, reference: Performance, after: Performance | None) -> Decision:
    """What a defense itself flags, bool (n,), against the roles.

    TPR and FPR: the shares of poisons and of clean examples that are flagged. Precision: of the flagged that are POISON
    or CLEAN, the share that is POISON; None if there are none. after: see ``rating`` for what is made of it.
    """
    poison, clean = roles == Role.POISON, roles == Role.CLEAN
    counted = chosen & (poison | clean)
    derived = rating(reference, after)
    return Decision(
        flagged=float(chosen.mean()),
        tpr=_share(chosen, poison),
        fpr=_share(chosen, clean),
        precision=float(poison[counted].mean()) if counted.any() else None,
        cover_flagged=_share(chosen, roles == Role.COVER),
        after=after,
        defense_effectiveness_rating=derived.defense_effectiveness_rating,
        signed=derived.signed,
    )


def inputs(
    clean: np.ndarray,
    challenged: np.ndarray,
    attacked: np.ndarray,
    obeyed: np.ndarray,
    refused: tuple[np.ndarray, np.ndarray] | None,
    seconds_per_input: float,
) -> Inputs:
    """How scores tell attacked inputs from the clean test images.

    clean: (n,), scores of the test images that the challenge does not show as they are; challenged: (m,), of the
    challenge's; attacked: bool (m,), which rows are attacked, the others being bystanders; obeyed: bool (m,), where the
    victim does as wanted; refused: bool (n,) and (m,), which of both are; None if nothing says. TPR at a FPR of 1 and
    5 %: the share of attacked inputs beyond that ``threshold`` of the clean ones. fpr, tpr, bystander_fpr: the shares
    that are refused.
    """
    poison = challenged[attacked]
    at_1pct, at_5pct = (threshold(clean, share) if len(clean) else None for share in (0.01, 0.05))
    of_clean, of_challenged = (None, None) if refused is None else refused
    return Inputs(
        auroc=_auroc(poison, clean),
        auroc_obeyed=_auroc(challenged[attacked & obeyed], clean),
        tpr_at_1pct_fpr=at_1pct.beyond(poison) if at_1pct and len(poison) else None,
        tpr_at_5pct_fpr=at_5pct.beyond(poison) if at_5pct and len(poison) else None,
        fpr=_share(of_clean, np.ones(len(clean), bool)),
        tpr=_share(of_challenged, attacked),
        bystander_fpr=_share(of_challenged, ~attacked),
        seconds_per_input=seconds_per_input,
    )


@dataclass(frozen=True)
class Threshold:
    """The score above which an input is suspicious.

    tied: the share of the inputs with just this score that are suspicious, too, drawn by chance; more than 0 only where
    several of the scores that the threshold was taken from are the same, as those that take few values are.
    """

    limit: float
    tied: float = 0.0

    def beyond(self, scores: np.ndarray) -> float:
        """The share of scores (n,), n > 0, beyond it, on average over what is drawn."""
        return float((scores > self.limit).mean() + self.tied * (scores == self.limit).mean())

    def refused(self, scores: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """Which of scores (n,) are beyond it, bool (n,)."""
        return (scores > self.limit) | ((scores == self.limit) & (chance.random(len(scores)) < self.tied))


def threshold(scores: np.ndarray, share: float) -> Threshold:
    """That beyond which lie as many of scores (n,), n > 0, as there are whole ones in ``share`` of them.

    Without a draw among equal scores next to nothing would lie beyond it where many have the highest one.
    """
    count = int(share * len(scores))
    limit = float(np.sort(scores)[len(scores) - 1 - count])
    return Threshold(limit, (count - np.count_nonzero(scores > limit)) / np.count_nonzero(scores == limit))


def refusal_threshold(reserve: np.ndarray) -> Threshold:
    """That beyond which inputs are refused: 5 % of the reserve, scores (n,), n > 0, are."""
    return threshold(reserve, REFUSED_SHARE)


def unseen(reserve: np.ndarray, handed: int) -> np.ndarray:
    """Scores (n,) of the reserve without those of its first ``handed`` examples, which the detector was given.

    It may have been fitted to them, and then scores them unlike the images that it will be asked about. All, if of the
    others there are too few for a threshold: beyond the largest of a handful lies far more than 5 %.
    """
    others = reserve[handed:]
    return others if int(REFUSED_SHARE * len(others)) else reserve


def rating(before: Performance, after: Performance | None) -> Derived:
    """DER = (max(0, dASR) - max(0, dCA) + 1) / 2 with d = before - after (Zhu et al. 2023, sec. 4.1).

    signed = (dASR - dCA + 1) / 2: the clips make the mean of DER over noise larger than what it is without noise.
    """
    if after is None or before.attack_success_rate is None or after.attack_success_rate is None:
        return Derived(None, None)
    gain = before.attack_success_rate - after.attack_success_rate
    loss = before.clean_accuracy - after.clean_accuracy
    return Derived((max(0.0, gain) - max(0.0, loss) + 1) / 2, (gain - loss + 1) / 2)


def _auroc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    if not len(positive) or not len(negative):
        return None
    truth = np.repeat([1, 0], [len(positive), len(negative)])
    return float(roc_auc_score(truth, np.concatenate([positive, negative])))


def _share(flags: np.ndarray | None, group: np.ndarray) -> float | None:
    return float(flags[group].mean()) if flags is not None and group.any() else None
