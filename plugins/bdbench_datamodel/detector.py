"""The datamodel defense: ensemble, matrix, search, score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import BdbenchError, Detector, Tools, TrainingView, param

if TYPE_CHECKING:
    from bdbench_datamodel.influence import Influence
    from bdbench_datamodel.search import Cuts

_CLASS_SIZES = (0.1, 0.15, 0.2, 0.3, 0.4)
_SET_SIZES = (0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1)


@dataclass(frozen=True, kw_only=True)
class Datamodel(Detector):
    """Finds the group of training examples whose members support each other most, as a backdoor's do.

    Small networks are trained on random subsets; how each example moves the margin of each other one gives a
    matrix. In every class the group whose submatrix sums highest is searched for; the class whose group stands
    out from those of the other classes is the suspect, and its examples are ranked by how they co-vary with the
    group. score_by=frequency is the paper's own score: how often an example was selected, over sizes and starts.
    """

    name = "datamodel"
    paper = "Khaddaj et al., Rethinking Backdoor Attacks, ICML 2023, arXiv:2307.10163"
    models: Literal["auto"] | int = param(
        "auto", help="networks in the ensemble (auto: 1000 mlp or 300 patches)", low=2
    )
    seconds: float | None = param(
        None, help="train as many networks as this time allows, in place of a number", low=0, exclusive=True
    )
    alpha: float = param(0.2, help="share of the training set in each subset", low=0, high=1, exclusive=True)
    antithetic: bool = param(False, help="draw subsets in pairs, each the other's complement (alpha=0.5)")
    shared_start: bool = param(True, help="start all networks from one initialisation, in one order of examples")
    estimator: Literal["out-of-sample", "all", "covariance"] = param(
        "out-of-sample",
        help="difference of means over the models without the target, or over all; or response covariance",
    )
    score_by: Literal["standout", "frequency"] = param(
        "standout", help="affinity to the group that stands out from the other classes'; or selection frequency"
    )
    classes: Literal["mask", "each", "ignore"] = param(
        "mask",
        help="with score_by=frequency: one search with entries between labels zeroed; one in each label; or neither",
    )
    sizes: tuple[float, ...] | None = param(
        None,
        help="sizes searched, as fractions of the class, or of the set where that is searched as a whole",
        low=0,
        high=1,
        exclusive=True,
    )
    starts: int = param(20, help="random starts of the search, for each size (the paper: 100)", low=1)
    net: Literal["auto", "mlp", "patches"] = param("auto", help="the networks (auto: mlp below 16 pixels a side)")
    hidden: int | None = param(None, help="their hidden units (none: 128 for mlp, 64 for patches)", low=1)
    epochs: int | None = param(None, help="passes over the subset (none: 15 for mlp, 20 for patches)", low=1)
    chunk: int | None = param(None, help="networks trained at once (none: by memory)", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Suspicion, float64 (n,). Raises BdbenchError if the parameters do not fit the set or each other."""
        from bdbench_datamodel.plan import Plan

        if self.seconds is not None and self.models != "auto":
            raise BdbenchError(f"models={self.models} is not allowed with seconds={self.seconds:g}: expected auto")
        masks, margins = Plan.of(self, view).train(view, tools)
        influence = self.influence(masks, margins)
        if self.score_by == "standout":
            return self._standout(influence, masks, margins, view, tools)
        from bdbench_datamodel.scoring import selection_frequency

        return selection_frequency(self.cuts(influence, view, tools), len(view.labels))

    def influence(self, masks: np.ndarray, margins: np.ndarray) -> Influence:
        """The matrix of the chosen estimator, from bool and float32 (m, n)."""
        from bdbench_datamodel import estimators
        from bdbench_datamodel.influence import Marginal

        return Marginal(estimators.MARGINAL[self.estimator], masks, margins)

    def _standout(
        self, influence: Influence, masks: np.ndarray, margins: np.ndarray, view: TrainingView, tools: Tools
    ) -> np.ndarray:
        from bdbench_datamodel import standout
        from bdbench_datamodel.estimators import residuals

        residual = residuals(masks, margins)
        labels = np.unique(view.labels)
        groups = standout.strongest(
            influence,
            standout.class_scales(residual, view.labels),
            view.labels,
            self.sizes or _CLASS_SIZES,
            self.starts,
            tools.streams("search"),
            tools.track(len(labels), "search"),
        )
        if not groups:
            raise self._no_size(_CLASS_SIZES)
        suspect, p_value = standout.outlier(np.array([group.strength for group in groups]))
        tools.conclude(p_value)
        affinities = [standout.covariance_affinity(residual, group) for group in groups]
        return standout.scores(groups, affinities, suspect, len(view.labels))

    def cuts(self, influence: Influence, view: TrainingView, tools: Tools) -> Iterator[Cuts]:
        """The local optima at every size; with classes=each, for every label in turn."""
        from bdbench_datamodel.search import Cuts, Problem, counts, search

        rng = tools.streams("search")
        if self.classes == "each":
            fractions = self.sizes or _CLASS_SIZES
            universes = [np.flatnonzero(view.labels == label) for label in np.unique(view.labels)]
        else:
            fractions = self.sizes or _SET_SIZES
            universes = [np.arange(len(view.labels))]
        work = [(universe, size) for universe in universes for size in counts(fractions, len(universe))]
        if not work:
            raise self._no_size(fractions)
        advance = tools.track(len(work) * self.starts, "search")
        problem, opened = None, None
        for universe, size in work:
            if problem is None or universe is not opened:
                labels = view.labels if self.classes == "mask" else None
                problem, opened = Problem.of(influence.block(universe), labels), universe
            found = search(problem, size, self.starts, rng, advance)
            yield Cuts(size, universe[found.members], found.objectives)

    def _no_size(self, fractions: tuple[float, ...]) -> BdbenchError:
        given = "+".join(f"{f:g}" for f in fractions)
        return BdbenchError(
            f"sizes={given} leave no group of at least 2 examples to search for: expected larger fractions"
        )
