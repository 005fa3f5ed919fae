"""One row for each defense over all attacks that work: never over stages, and never over a part of the attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bdbench.leaderboard import intervals
from bdbench.leaderboard.columns import STAGES
from bdbench.leaderboard.frame import ATTACKED, DEFENDED, GROUND
from bdbench.leaderboard.standing import LEAST_SEEDS

_RESAMPLES = 10_000
# A model's verdict changes no model.
_STAGES = tuple(stage for stage in STAGES if stage != "model")
_ATTACK = [name for name in ATTACKED if name not in GROUND]


@dataclass(frozen=True)
class Interval:
    """A number and the ends of its 95 % interval, NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan


@dataclass(frozen=True)
class Overall:
    """A defense over all attacks of its ground that work.

    row: of the table, for its names; attacks, seeds: how many; worst_attack: the row of the attack with the highest
    mean ASR after. No number is known where ``missing``, the attacks it did not run on, holds any: rows as well.
    """

    row: int
    attacks: int
    seeds: int = 0
    mean_asr: Interval = Interval(np.nan)
    worst_asr: Interval = Interval(np.nan)
    worst_attack: int = -1
    mean_ca_cost: Interval = Interval(np.nan)
    missing: tuple[int, ...] = ()


def overall(table: pd.DataFrame, values: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray]) -> list[Overall]:
    """The defenses of every stage but ``model``, by stage, setting and mean ASR; values, counts: as in ``standing``.

    The attacks are those of the ground that work (``_working``); a defense takes part if it has a row of each of them,
    with the seeds that it has against all. Mean: over attacks, of the mean over seeds; worst: the highest of those
    means. Their intervals: see ``resampled``. Attacks are tried on the same test images, so that what the examples ask
    of the mean is the mean of what they ask of each.
    """
    found = []
    attack = list(table[_ATTACK].itertuples(index=False, name=None))
    grounds = [(ground, _working(table, ground, attack)) for ground in table.groupby(GROUND).indices.values()]
    for stage in _STAGES:
        for ground, examples in grounds:
            tried = np.array([attack[row] in examples for row in ground])
            own = ground[tried & (table["stage"].iloc[ground] == stage) & ~np.isnan(values["asr_after"][ground]).all(1)]
            rows = list(_of_ground(table, own, attack, examples, values, counts))
            found += sorted(rows, key=lambda one: (bool(one.missing), one.mean_asr.value, one.row))
    return found


def _working(table: pd.DataFrame, ground: np.ndarray, attack: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """A row of each attack of the ground that works: in no fewer than half of the rows that have the most seeds of it.

    Rows of one attack may hold other victims, of another machine or of fewer seeds; whether it works is asked once, so
    that no defense is left out for having met a victim that did not learn it.
    """
    works, seeds = table["works"].to_numpy(), table["seeds"].to_numpy()
    of_attack: dict[tuple[str, ...], list[int]] = {}
    for row in ground:
        if works[row]:
            of_attack.setdefault(attack[row], []).append(int(row))
    found = {}
    for key, rows in of_attack.items():
        most = [row for row in rows if seeds[row] == seeds[rows].max()]
        yes = [row for row in most if works[row] == "yes"]
        if 2 * len(yes) >= len(most):
            found[key] = yes[0]
    return dict(sorted(found.items()))


def _of_ground(
    table: pd.DataFrame,
    own: np.ndarray,
    attack: Sequence[tuple[str, ...]],
    attacks: Mapping[tuple[str, ...], int],
    values: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
) -> Iterator[Overall]:
    """own: the rows of one stage against attacks that work; attack: of each row of the table; attacks: a row of each
    of those.
    """
    for rows in table.iloc[own].groupby(DEFENDED).indices.values():
        of_attack = {attack[row]: int(row) for row in own[rows]}
        first = min(of_attack.values())
        missing = tuple(row for key, row in attacks.items() if key not in of_attack)
        if missing:
            yield Overall(first, len(attacks), missing=missing)
            continue
        chosen = [of_attack[key] for key in attacks]
        shared = ~np.isnan(values["asr_after"][chosen]).any(0)
        if not shared.any():
            continue
        asr, cost = (values[name][chosen][:, shared] for name in ("asr_after", "ca_cost"))
        held = {name: count[chosen][:, shared].sum(1) for name, count in counts.items()}
        means = {name: v[chosen][:, shared].mean(1) for name, v in values.items() if name in held}
        doubt = {name: intervals.reaches(means, held, name) for name in ("asr_after", "ca_cost")}
        worst = int(asr.mean(1).argmax())
        yield Overall(
            first,
            len(attacks),
            int(shared.sum()),
            resampled(asr, "mean", float(doubt["asr_after"].mean())),
            resampled(asr, "worst", float(doubt["asr_after"][worst])),
            chosen[worst],
            resampled(cost, "mean", float(doubt["ca_cost"].mean()), (-1.0, 1.0)),
        )


def resampled(numbers: np.ndarray, which: str, doubt: float, within: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """The mean or the highest over attacks of the means over seeds of (attacks, seeds), and its 95 % interval.

    Whole seeds are drawn with replacement, the same for all attacks, since what they share makes their numbers go
    together. The deviation of the results, which is too small by sqrt((n - 1) / n) for n seeds, is the standard error;
    half the interval is Student's quantile times that (of the mean it is Student's interval over the seeds), and at
    least ``doubt``, which is of the examples behind the numbers. None for fewer than three seeds.
    """
    seeds = numbers.shape[1]
    over = np.mean if which == "mean" else np.max
    value = float(over(numbers.mean(1), axis=0))
    if seeds < LEAST_SEEDS:
        return Interval(value)
    drawn = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds
    results = over(numbers @ drawn.T, axis=0)
    half = intervals.student(results.std() * seeds / np.sqrt(seeds - 1), seeds)
    low, high = intervals.ends(value, max(float(half), doubt), within)
    return Interval(value, float(low), float(high))
