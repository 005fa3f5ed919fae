"""How strong a feature is (Khaddaj et al. 2023, sec. 3): did the assumption hold on which the detector rests?

A feature is a group of p training examples. Its k-output g(k) is the expected margin of a member that is not in the
training subset, over subsets that hold k members; its k-strength is g(k + 1) - g(k). Assumption 1: of all features
with as many members the trigger is the strongest, at the k that subsets hold on average, alpha p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bdbench_datamodel.estimators import difference_of_means

_PARTS = 5
# Models in each of these: of fewer, entries of W are empty, and count as no effect.
_FEWEST = 10
_POINTS = 8


@dataclass(frozen=True)
class Estimate:
    """A number and half its 95 % interval."""

    value: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.value + self.half


@dataclass(frozen=True)
class Strength:
    """One group. size: p; k: alpha p; output: g(k) there; counted, by_datamodels: the k-strength, margin per example.

    curve: (points, 4), of the members seen, the mean margin, half its 95 % interval, and the models behind it.
    """

    name: str
    kind: str
    size: int
    k: float
    output: Estimate
    counted: Estimate
    by_datamodels: Estimate
    curve: np.ndarray


def counted(masks: np.ndarray, margins: np.ndarray, members: np.ndarray) -> tuple[Estimate, Estimate, np.ndarray]:
    """g at the mean k, the k-strength there, and the curve (points, 4), by counting.

    masks: bool (m, n), margins: float (m, n), members: int64 (p,). Each model gives one pair: how many members it
    held, and the mean margin of those that it did not. Their least-squares slope is the k-strength; its interval is
    that of the slope, which takes models as independent.
    """
    held = masks[:, members]
    seen = held.sum(1)
    usable = seen < len(members)
    seen = seen[usable].astype(float)
    outside = ~held[usable]
    outputs = (margins[usable][:, members] * outside).sum(1, dtype=np.float64) / outside.sum(1)
    if len(seen) < 3 or np.ptp(seen) == 0:
        nothing = Estimate(float("nan"), float("nan"))
        return Estimate(float(outputs.mean()), float("nan")), nothing, np.empty((0, 4))
    line = stats.linregress(seen, outputs)
    half = stats.t.ppf(0.975, len(seen) - 2) * line.stderr
    return _mean(outputs), Estimate(float(line.slope), float(half)), _curve(seen, outputs)


def by_datamodels(masks: np.ndarray, margins: np.ndarray, members: np.ndarray) -> Estimate:
    """(1 / p) 1_v' W h(1_v), Lemma 1's approximation of the k-strength at k = alpha p.

    W is the out-of-sample difference of means. The value is that of all models (m, n); the interval is Student's over
    five disjoint parts of them. NaN with fewer than 50 models, where members' effects on each other are missing.
    """
    if len(masks) < _PARTS * _FEWEST:
        return Estimate(float("nan"), float("nan"))

    def lemma(part: slice) -> float:
        rows = difference_of_means(masks[part], margins[part], targets=members)
        n, p = rows.shape[1], len(members)
        inside = rows[:, members].sum(dtype=np.float64)
        return float((inside / p - (rows.sum(dtype=np.float64) - inside) / (n - p)) / p)

    bounds = np.linspace(0, len(masks), _PARTS + 1).astype(int)
    parts = np.array([lemma(slice(a, b)) for a, b in itertools.pairwise(bounds)])
    half = stats.t.ppf(0.975, _PARTS - 1) * parts.std(ddof=1) / np.sqrt(_PARTS)
    return Estimate(lemma(slice(None)), float(half))


def natural_groups(
    features: np.ndarray, labels: np.ndarray, clean: np.ndarray, size: int, rng: np.random.Generator
) -> list[tuple[str, str, np.ndarray]]:
    """(name, kind, members) of groups that nobody planted: classes, tight clusters in them, and random sets.

    features: float (n, d), of the victim; labels: int64 (n,); clean: bool (n,), which examples may be members; size:
    that of clusters and random sets, to be compared with a trigger on as many. A cluster is the examples of one class
    nearest to a centre of 3-means; classes too small for one give none.
    """
    from sklearn.cluster import KMeans

    groups = []
    for label in np.unique(labels[clean]):
        own = np.flatnonzero(clean & (labels == label))
        groups.append((f"class {label}", "class", own))
        if len(own) <= max(size, 3):
            continue
        centres = KMeans(3, n_init=4, random_state=int(rng.integers(2**31))).fit(features[own]).cluster_centers_
        for i, centre in enumerate(centres):
            nearest = np.argsort(((features[own] - centre) ** 2).sum(1))[:size]
            groups.append((f"class {label}, cluster {i}", "cluster", own[nearest]))
    pool = np.flatnonzero(clean)
    groups += [(f"random {i}", "random", rng.choice(pool, min(size, len(pool)), replace=False)) for i in range(5)]
    return groups


def measure(
    masks: np.ndarray,
    margins: np.ndarray,
    groups: Sequence[tuple[str, str, np.ndarray]],
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Strength]:
    """Every group's strength, by counting and by datamodels, in their order."""
    found = []
    for name, kind, members in groups:
        output, slope, curve = counted(masks, margins, members)
        k = float(masks[:, members].sum(1).mean())
        found.append(
            Strength(name, kind, len(members), k, output, slope, by_datamodels(masks, margins, members), curve)
        )
        advance(1)
    return found


def rivals(strengths: Sequence[Strength]) -> tuple[Strength | None, Strength | None]:
    """The trigger, and the strongest natural group of its size; None: there is none, or none that could be told."""
    trigger = next((s for s in strengths if s.kind == "trigger"), None)
    # A slope that could not be told is NaN, which is neither more nor less than another.
    natural = [s for s in strengths if s.kind == "cluster" and math.isfinite(s.counted.value)]
    return trigger, max(natural, key=lambda s: s.counted.value, default=None)


def assumption(trigger: Strength, natural: Strength) -> str:
    """Assumption 1, that the trigger is the stronger: "held" or "failed" where the intervals lie apart; "undecided"."""
    if trigger.counted.low > natural.counted.high:
        return "held"
    return "failed" if trigger.counted.high < natural.counted.low else "undecided"


def verdict(strengths: Sequence[Strength]) -> str:
    """Whether the trigger was the strongest of the features of its size, in one sentence."""
    trigger, natural = rivals(strengths)
    if trigger is None:
        return "Nothing was attacked: there is no trigger to compare with."
    if natural is None:
        return "No natural group of the trigger's size has a strength that could be told: nothing to compare with."
    if not math.isfinite(trigger.counted.value):
        return "The trigger's strength could not be told: every network holds as many of its members."
    compared = (
        f"the trigger's strength is {_shown(trigger.counted)} a member, "
        f"that of the strongest natural group of its size ({natural.name}) {_shown(natural.counted)}"
    )
    return {
        "held": f"Assumption 1 held among the groups looked at: {compared}.",
        "failed": f"Assumption 1 failed: {compared}.",
        "undecided": f"Assumption 1 is undecided: {compared}, and the intervals overlap.",
    }[assumption(trigger, natural)]


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.half:.3f}"


def _mean(values: np.ndarray) -> Estimate:
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(half))


def _curve(seen: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Models in groups of about equal number by the members they saw."""
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, _POINTS + 1)))
    place = np.clip(np.searchsorted(edges, seen, side="right") - 1, 0, max(len(edges) - 2, 0))
    points = []
    for i in np.unique(place):
        mean = _mean(outputs[place == i])
        points.append((seen[place == i].mean(), mean.value, mean.half, (place == i).sum()))
    return np.array(points)
