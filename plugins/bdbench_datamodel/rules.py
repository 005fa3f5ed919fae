"""The two rules by which examples are scored: by what becomes of suspects that are withheld, or classes compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bdbench import Tools, TrainingView
from bdbench_datamodel import evidence, scoring, standout, suspects, withheld
from bdbench_datamodel.estimators import residuals
from bdbench_datamodel.influence import Influence
from bdbench_datamodel.standout import Group
from bdbench_datamodel.suspects import Looked
from bdbench_datamodel.transfer import Transfer, turned

# Subsets, bool (M, n), to margins, float32 (M, n), of networks more and which other label each finds most probable,
# int16 (M, n).
Withhold = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def by_withholding(
    influence: Influence,
    ensemble: tuple[np.ndarray, np.ndarray],
    withhold: Withhold,
    more: float,
    view: TrainingView,
    tools: Tools,
    fractions: Sequence[float],
    starts: int,
) -> np.ndarray:
    """Every class is judged by what its suspects do (``evidence.judge``); scores, float64 (n,), and the conclusion.

    ensemble: subsets, bool (m, n), and margins, float32 (m, n); more: how many networks, for each of the ensemble's,
    suspects are withheld from; fractions, starts: of the search for the strongest group of each class.
    """
    masks, margins = ensemble
    residual = residuals(masks, margins)
    groups = _strongest(influence, standout.class_scales(residual, view.labels), view.labels, tools, fractions, starts)
    affinities, looked = _suspects(residual, groups, tools)
    classes = [own.groups for own in looked if own.groups]
    effects: list[list[withheld.Effect]] = []
    transfers: list[list[Transfer]] = []
    if classes:
        networks, size = max(1, round(more * len(masks))), int(masks[0].sum())
        denied, subsets = withheld.draw(classes, len(view.labels), networks, size, tools.streams("withheld"))
        effects = withheld.effects(classes, denied, subsets, *withhold(subsets), view.num_classes)
        predict, rng = tools.victim.predict, tools.streams("strangers")
        advance = tools.track(len(classes), "strangers")
        transfers = turned(predict, view.images, view.labels, classes, effects, view.num_classes, rng, advance)
    otherwise = _compared(groups, affinities, looked, view, fractions)
    known = evidence.Known.of(margins, masks, view.labels, view.num_classes)
    judged = evidence.judge(classes, effects, transfers, known, otherwise, view.images)
    tools.conclude(judged.p_value, judged.flagged, judged.evidence)
    return judged.scores


def by_comparison(
    influence: Influence,
    ensemble: tuple[np.ndarray, np.ndarray] | None,
    view: TrainingView,
    tools: Tools,
    fractions: Sequence[float],
    starts: int,
) -> np.ndarray:
    """Classes are compared, as if one were poisoned (``scoring.suspicion``); scores, float64 (n,), and the p-value.

    ensemble: as of ``by_withholding``; None: there is but the matrix, and strength alone tells.
    """
    if ensemble is None:
        scales = standout.matrix_scales(influence, view.labels)
        groups = _strongest(influence, scales, view.labels, tools, fractions, starts)
        affinities = [standout.matrix_affinity(influence, own, scales[own.examples[0]]) for own in groups]
        tools.conclude(standout.p_value(np.array([group.strength for group in groups])))
        return _compared(groups, affinities, None, view, fractions)
    residual = residuals(*ensemble)
    groups = _strongest(influence, standout.class_scales(residual, view.labels), view.labels, tools, fractions, starts)
    affinities, looked = _suspects(residual, groups, tools, handfuls=False)
    sharpness = np.array([own.grown.sharpness for own in looked])
    tools.conclude(standout.p_value(np.array([group.strength for group in groups]), sharpness))
    return _compared(groups, affinities, looked, view, fractions)


def _strongest(
    influence: Influence,
    scales: np.ndarray,
    labels: np.ndarray,
    tools: Tools,
    fractions: Sequence[float],
    starts: int,
) -> list[Group]:
    rng, advance = tools.streams("search"), tools.track(len(np.unique(labels)), "search")
    return standout.strongest(influence, labels, scales, tuple(fractions), starts, rng, advance)


def _suspects(
    residual: np.ndarray, groups: list[Group], tools: Tools, handfuls: bool = True
) -> tuple[list[np.ndarray], list[Looked]]:
    """The affinity of each example of every group's class to it, and what there is to suspect in the class."""
    affinities = [standout.covariance_affinity(residual, group) for group in groups]
    advance = tools.track(len(groups), "suspects")
    return affinities, suspects.look(residual, groups, affinities, tools.streams("sharpest"), handfuls, advance)


def _compared(
    groups: list[Group],
    affinities: list[np.ndarray],
    looked: list[Looked] | None,
    view: TrainingView,
    fractions: Sequence[float],
) -> np.ndarray:
    sharpest = None if looked is None else [own.sharpest for own in looked]
    return scoring.suspicion(groups, affinities, sharpest, len(view.labels), float(np.mean(fractions)))
