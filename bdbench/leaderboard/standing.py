"""Who is better than whom, as far as the seeds and the examples behind the numbers can tell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bdbench.leaderboard import intervals
from bdbench.leaderboard.columns import NUMBERS, RANKED_BY
from bdbench.leaderboard.frame import RIVALS

LEAST_SEEDS = 3
LEVEL = 0.05
# The rank of a row that no rival beats and that does not beat them all.
NOT_TOLD_APART = "not told apart from the best"


def paired(
    values: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray], name: str, sets: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The difference of a number between every two of r rows over the seeds that both have: (seeds, mean, p), (r, r).

    values, counts: of each number, float64 (r, seeds), NaN where there is none; and the examples it is a share of.
    sets: int64 (r, seeds), which poisoned set and challenge each was measured on: a seed of which two rows have two
    does not count for them, as of an attack that was crafted on two machines. DER is compared without what it is
    measured against (``_own``). p is
    the larger of that of a paired t-test over the seeds and that of a z-test whose variance is that of both rows'
    means over their examples (``intervals.reach`` over z): where all seeds agree, the first knows of no doubt. NaN for
    fewer than two seeds.
    """
    from scipy.special import ndtr, stdtr

    x = _own(values, name)
    both = ~np.isnan(x)[:, None] & ~np.isnan(x)[None]
    if sets is not None:
        both &= sets[:, None] == sets[None]
    n = both.sum(-1)
    seeds = np.maximum(n, 1)
    difference = np.where(both, x[:, None] - x[None], 0.0)
    mean = difference.sum(-1) / seeds
    deviation = np.sqrt(np.where(both, (difference - mean[..., None]) ** 2, 0.0).sum(-1) / np.maximum(n - 1, 1))
    sampled = {term: np.where(both, np.nan_to_num(values[term])[:, None], 0.0).sum(-1) / seeds for term in _terms(name)}
    examples = {term: np.where(both, counts[term][:, None], 0.0).sum(-1) for term in _terms(name)}
    error = intervals.reaches(sampled, examples, name, own=True) / intervals.Z
    with np.errstate(divide="ignore", invalid="ignore"):
        by_seeds = 2 * stdtr(np.maximum(n - 1, 1), -np.abs(mean) / (deviation / np.sqrt(seeds)))
        by_examples = 2 * ndtr(-np.abs(mean) / np.sqrt(error**2 + error.T**2))
    p = np.where(mean == 0, 1.0, np.maximum(by_seeds, by_examples))
    return n, mean, np.where(n > 1, p, np.nan)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (k,) corrected for there being k of them (Holm 1979): what is below the level is so together."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def beats(
    values: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray], name: str, sets: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of r rivals beats each other in a number, and whether that could be told, both bool (r, r).

    It can be told of two that share LEAST_SEEDS seeds; the p-values of all such pairs are corrected together.
    """
    n, mean, p = paired(values, counts, name, sets)
    told = (n >= LEAST_SEEDS) & ~np.eye(len(n), dtype=bool)
    pairs = np.nonzero(np.triu(told))
    better = np.zeros(told.shape, bool)
    sure = holm(p[pairs]) < LEVEL
    for i, j in zip(*(side[sure] for side in pairs), strict=True):
        ahead = NUMBERS[name].better * mean[i, j] > 0
        better[i, j], better[j, i] = ahead, not ahead
    return better, told


def standing(
    table: pd.DataFrame, values: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray], sets: np.ndarray
) -> pd.DataFrame:
    """The columns ``rank``, ``beaten_by`` and ``best`` of the rows of ``table``; values, counts, sets: (rows, seeds)
    each, as in ``paired``.

    Rivals are the defenses of one stage and with the same access against one attack, where it works or nothing is
    attacked. beaten_by: how many rivals have a better DER (signed), as far as that can be told; empty where no rival
    shares seeds enough. rank: 1 + that number; but of those that no rival beats, only one that beats them all is 1.
    best: the names of the numbers in which the row beats every rival that has the number.
    """
    best: list[list[str]] = [[] for _ in range(len(table))]
    rank = [""] * len(table)
    beaten = np.full(len(table), np.nan)
    fit = table["works"].to_numpy() != "no"
    for group in table.groupby(RIVALS).indices.values():
        rows = group[fit[group]]
        for name in (name for name, number in NUMBERS.items() if number.better):
            have = rows[~np.isnan(values[name][rows]).all(1)]
            if len(have) < 2:
                continue
            known = {term: values[term][have] for term in {name, *_terms(name)}}
            better, told = beats(known, {term: counts[term][have] for term in _terms(name)}, name, sets[have])
            leads = better.sum(1) == len(have) - 1
            for row in have[leads]:
                best[row].append(name)
            if name != RANKED_BY:
                continue
            for i, row in enumerate(have):
                if told[i].any():
                    losses = better[:, i].sum()
                    beaten[row] = losses
                    rank[row] = str(1 + losses) if losses or leads[i] else NOT_TOLD_APART
    return pd.DataFrame({"rank": rank, "beaten_by": beaten, "best": [" ".join(names) for names in best]})


def _terms(name: str) -> tuple[str, ...]:
    """The numbers whose examples make a difference in this one unsure: those of ``reaches`` with ``own``."""
    number = NUMBERS[name]
    return (name,) if number.terms is None else tuple(term for term in number.terms if term not in number.bases)


def _own(values: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A number of each row as far as it is the row's own: without what a stage is measured against, which is the same
    for rivals, and where it was measured again, as on another machine, differs by chance alone; and without its clips.
    """
    number = NUMBERS[name]
    if number.terms is None or not number.bases:
        return values[name]
    own = np.sum([number.terms[term] * values[term] for term in _terms(name)], axis=0)
    return np.where(np.isnan(values[name]), np.nan, own)
