"""The datamodel defense: ensemble, matrix, search, score."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import BdbenchError, Detector, Needs, Tools, TrainingView, param
from bdbench_datamodel.options import PATCHED, floats_of_inputs

if TYPE_CHECKING:
    from bdbench_datamodel.influence import Influence
    from bdbench_datamodel.search import Cuts

_CLASS_SIZES = (0.1, 0.15, 0.2, 0.3, 0.4)
_SET_SIZES = (0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1)
# Networks in the ensemble: small ones, others, and those of trak, of whose matrix more hardly make a better one.
_MANY, _FEW, _CHECKPOINTS = 1000, 300, 10
# Inputs are held so many times at once while they are made: padded, cut, and rotated.
_COPIES = 3
# The estimators that have a penalty.
_PENALISED = ("ridge", "lasso", "trak")
# What says how networks are trained, and what is made of them.
_OF_NETWORKS = (
    "models", "alpha", "antithetic", "shared_start", "estimator", "dimension", "net", "hidden", "epochs", "chunk",
)  # fmt: skip
# Bytes an entry of the margins takes with their subsets and residuals; more of them while an estimator works; those of
# what is searched, a class or the set: an entry of its margins, of its part of the matrix, and an example with its
# share of starts and rows. Measured, of arrays (n = 1,000 to 8,000, 2 and 10 classes; trak by the process).
_MARGIN, _ESTIMATING = 17, {"all": 8, "covariance": 8, "ridge": 24, "lasso": 8}
_SEARCHED, _PART, _EXAMPLE = 20, 5, 28_000
# The same of a matrix from a file, read, scaled and turned; and of trak's projections, kept and put together.
_FROM_FILE, _PROJECTED = 12, 16


@dataclass(frozen=True, kw_only=True)
class Datamodel(Detector):
    """Finds the group of training examples whose members support each other most, as a backdoor's do.

    Small networks are trained on random subsets; how each example moves the margin of each other one gives a
    matrix. In every class two groups are searched for: the one whose submatrix sums highest, and the one that a
    discriminant tells most sharply from its class-mates. An example's score is about the probability that it is a
    poison: that its class's groups stand out from those of the other classes, by strength or by sharpness, times that
    it belongs to them. score_by=frequency is the paper's own score: how often an example was selected, over sizes and
    starts.
    """

    name = "datamodel"
    paper = "Khaddaj et al., Rethinking Backdoor Attacks, ICML 2023, arXiv:2307.10163"
    assumption = (
        "Poisons of one label help each other more than what is natural to it does (to the paper, the trigger is the "
        "strongest feature of its size), and what they share gives this label to images of others."
    )
    models: Literal["auto"] | int = param("auto", help="networks in the ensemble (auto: 1000 mlp, else 300)", low=2)
    seconds: float | None = param(
        None, help="train as many networks as this time allows, in place of a number", low=0, exclusive=True
    )
    alpha: float = param(0.2, help="share of the training set in each subset", low=0, high=1, exclusive=True)
    antithetic: bool = param(False, help="draw subsets in pairs, each the other's complement (alpha=0.5)")
    shared_start: bool = param(True, help="start all networks from one initialisation, in one order of examples")
    estimator: Literal["out-of-sample", "all", "covariance", "ridge", "lasso", "trak"] = param(
        "out-of-sample",
        help="difference of means over the models without the target, or over all; response covariance; regression; "
        "or gradients of a few models",
    )
    penalty: float | None = param(
        None,
        help="of ridge (none: 1) and trak (none: 0.1), in mean eigenvalues; or of lasso, as a share of the least that "
        "leaves no weight (none: for each target the one that predicts networks best that were held out)",
        low=0, exclusive=True,
    )  # fmt: skip
    dimension: int = param(512, help="of trak's projected gradients", low=1)
    matrix: str | None = param(None, help="a matrix from this .npy, .npz or .pt file in place of an ensemble")
    rows: Literal["auto", "targets", "sources"] = param(
        "auto", help="what the file's rows are (auto: targets, but sources for the datamodels release's weight)"
    )
    score_by: Literal["auto", "withheld", "posterior", "frequency"] = param(
        "auto",
        help="the probability of being one of the backdoor's examples: by what networks do from which suspect groups "
        "are withheld, or by comparing classes; or how often one was selected (auto: withheld; posterior for a matrix "
        "without margins)",
    )
    withheld: float = param(
        0.25,
        help="networks more, for each of the ensemble's, that suspect groups are withheld from",
        low=0,
        exclusive=True,
    )
    classes: Literal["mask", "each", "ignore"] = param(
        "mask",
        help="with score_by=frequency: one search with entries between labels zeroed; one in each label; or neither",
    )
    compat: Literal["none", "khaddaj2023"] = param(
        "none", help="khaddaj2023: the authors' released search and sizes in the whole set, faults included"
    )
    sizes: tuple[float, ...] | None = param(
        None,
        help="sizes searched for the strongest group, as fractions of the class, or of the set where that is searched "
        "as a whole; where classes are compared, their mean is what part of one a backdoor is taken to hold",
        low=0,
        high=1,
        exclusive=True,
    )
    starts: int = param(20, help="random starts of the search, for each size (the paper: 100)", low=1)
    net: Literal["auto", "mlp", "patches", "resnet9"] = param(
        "auto", help="the networks (auto: mlp below 16 pixels a side, else patches; resnet9: deeper, for a GPU)"
    )
    hidden: int | None = param(
        None, help="their hidden units, or resnet9's first channels (none: 128 for mlp, 64 for patches, 32)", low=1
    )
    epochs: int | None = param(
        None, help="passes over the subset (none: 15 for mlp, 20 for patches, 10 for resnet9)", low=1
    )
    chunk: int | None = param(None, help="networks trained at once (none: by memory)", low=1)

    def __post_init__(self) -> None:
        """Raises BdbenchError for parameters out of range or that do not fit each other."""
        super().__post_init__()
        if not self.trains_ensemble and self.seconds is not None:
            given = "estimator=trak" if self.matrix is None else f"matrix={self.matrix}"
            raise BdbenchError(f"seconds={self.seconds:g} is not allowed with {given}: expected an ensemble to train")
        if self.seconds is not None and self.models != "auto":
            raise BdbenchError(f"models={self.models} is not allowed with seconds={self.seconds:g}: expected auto")
        if self.penalty is not None and (self.matrix is not None or self.estimator not in _PENALISED):
            given = f"estimator={self.estimator}" if self.matrix is None else f"matrix={self.matrix}"
            expected = ", ".join(_PENALISED)
            raise BdbenchError(f"penalty={self.penalty:g} is not allowed with {given}: expected one of {expected}")
        if self.estimator == "lasso" and self.penalty is not None and self.penalty >= 1:
            raise BdbenchError(f"penalty={self.penalty:g} is not allowed with estimator=lasso: expected in (0, 1)")
        if self.net == "resnet9" and self.matrix is None and self.estimator == "trak":
            raise BdbenchError("net=resnet9 is not allowed with estimator=trak: expected one of auto, mlp, patches")
        if self.score_by == "withheld" and not self.trains_ensemble:
            given = "estimator=trak" if self.matrix is None else f"matrix={self.matrix}"
            raise BdbenchError(f"score_by=withheld is not allowed with {given}: expected an ensemble to train")
        if self.compat != "none" and (self.score_by, self.classes, self.sizes) != ("frequency", "ignore", None):
            raise BdbenchError(
                f"compat={self.compat} is not allowed: expected with score_by=frequency, classes=ignore and no sizes"
            )
        self._check_all_count()

    def _check_all_count(self) -> None:
        """Raises BdbenchError for an option that was given and that nothing comes of beside the others."""
        idle = {} if self.score_by == "frequency" else {"classes": "score_by=frequency"}
        if not self._withholds:
            idle["withheld"] = "score_by=withheld"
        if self.matrix is None:
            idle["rows"] = "matrix=PATH"
        else:
            idle |= dict.fromkeys(_OF_NETWORKS, "no matrix")
        if self.estimator != "trak":
            idle["dimension"] = "estimator=trak"
        elif self.matrix is None:
            idle |= dict.fromkeys(("antithetic", "shared_start"), "an ensemble to train")
        defaults = {field.name: field.default for field in fields(self)}
        for name, expected in idle.items():
            if (value := getattr(self, name)) != defaults[name]:
                given = str(value).lower() if isinstance(value, bool) else value
                raise BdbenchError(f"{name}={given} is not allowed here, where it does nothing: expected {expected}")

    def files(self) -> tuple[Path, ...]:
        """The matrix, if it is read from a file."""
        return () if self.matrix is None else (Path(self.matrix),)

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        """The inputs while they are made; margins, subsets and residuals of the ensemble; and the matrix, of a class or
        whole where it is searched.
        """
        models = self._networks(shape)
        largest = -(-examples // num_classes) if self._by_class else examples
        if self.matrix is not None:
            return Needs(_FROM_FILE * examples**2 + _PART * largest**2, models)
        searched = _SEARCHED * models * largest + _EXAMPLE * largest
        memory = _COPIES * 4 * examples * floats_of_inputs(self.net_for(shape), shape) + _PART * largest**2
        if not self.trains_ensemble:
            return Needs(memory + _PROJECTED * (models + 1) * self.dimension * examples, models)
        memory += (_MARGIN + _ESTIMATING.get(self.estimator, 0)) * models * examples + searched
        if self.estimator == "lasso":
            memory += 8 * examples**2
        return Needs(memory, models)

    def ensemble_size(self, shape: tuple[int, int, int]) -> int:
        """How many networks the ensemble has, for images (H, W, C), by default or as asked."""
        if self.models != "auto":
            return self.models
        if self.estimator == "trak":
            return _CHECKPOINTS
        return _MANY if self.net_for(shape) == "mlp" else _FEW

    def net_for(self, shape: tuple[int, int, int]) -> str:
        """Which networks for images (H, W, C), by default or as asked."""
        if self.net != "auto":
            return self.net
        return "mlp" if min(shape[:2]) < PATCHED else "patches"

    def _networks(self, shape: tuple[int, int, int]) -> int:
        """How many are trained; as many as in the default time, where time is what is given."""
        if self.matrix is not None:
            return 0
        models = self.ensemble_size(shape)
        return models + round(self.withheld * models) if self._withholds else models

    @property
    def _withholds(self) -> bool:
        return self.trains_ensemble and self.score_by in ("auto", "withheld")

    @property
    def share_of_ensemble(self) -> float:
        """What part of all networks the ensemble is: the others are those that suspect groups are withheld from."""
        return 1 / (1 + self.withheld) if self._withholds else 1.0

    @property
    def trains_ensemble(self) -> bool:
        """Whether networks are trained on subsets: not for a matrix from a file, nor for a few networks' gradients."""
        return self.matrix is None and self.estimator != "trak"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Suspicion, float64 (n,). Raises BdbenchError if the parameters do not fit the set."""
        from bdbench_datamodel import rules
        from bdbench_datamodel.plan import Plan
        from bdbench_datamodel.scoring import selection_frequency

        self._check_sizes(view.labels)
        ensemble = None
        if self.trains_ensemble:
            plan = Plan.of(self, view, tools.precision)
            ensemble = plan.train(view, tools)
        influence = self._influence(ensemble, view, tools)
        if self.score_by == "frequency":
            return selection_frequency(self._cuts(influence, view, tools), len(view.labels))
        searched = view, tools, self._fractions(), self.starts
        if ensemble is None or not self._withholds:
            return rules.by_comparison(influence, ensemble, *searched)
        withhold = functools.partial(plan.withhold, view=view, tools=tools)
        return rules.by_withholding(influence, ensemble, withhold, self.withheld, *searched)

    def _influence(self, ensemble: tuple[np.ndarray, np.ndarray] | None, view: TrainingView, tools: Tools) -> Influence:
        import torch

        from bdbench_datamodel import estimators
        from bdbench_datamodel.influence import Dense
        from bdbench_datamodel.lasso import chosen_penalties, lasso
        from bdbench_datamodel.matrixfile import read_matrix
        from bdbench_datamodel.plan import Plan
        from bdbench_datamodel.ridge import ridge
        from bdbench_datamodel.trak import trak

        if self.matrix is not None:
            return Dense(read_matrix(Path(self.matrix), len(view.labels), self.rows))
        if ensemble is None:
            plan = Plan.of(self, view, tools.precision)
            network, checkpoints, inputs, labels = plan.train_few(view, tools)
            return trak(
                network,
                checkpoints,
                inputs,
                labels,
                self.dimension,
                self.penalty or 0.1,
                tools.streams.integer("projection"),
                tools.track(len(checkpoints), "gradients"),
                getattr(torch, plan.trainer.recipe.precision),
            )
        masks, margins = ensemble
        if self.estimator == "ridge":
            return ridge(masks, margins, self.penalty or 1.0)
        if self.estimator == "lasso":
            n = len(view.labels)
            penalty = self.penalty or chosen_penalties(masks, margins, tools.track(n, "penalties"))
            return lasso(masks, margins, penalty, tools.track(n, "lasso"))
        if self.estimator == "all":
            return estimators.difference_over_all(masks, margins)
        if self.estimator == "covariance":
            return estimators.response_covariance(masks, margins)
        return estimators.OutOfSample(masks, margins)

    def _cuts(self, influence: Influence, view: TrainingView, tools: Tools) -> Iterator[Cuts]:
        """The local optima at every size; with classes=each, for every label in turn."""
        from bdbench_datamodel import compat
        from bdbench_datamodel.lowrank import objective_of
        from bdbench_datamodel.search import Cuts, Problem, search

        released = self.compat != "none"
        rng = tools.streams("search")
        universes = self._universes(view.labels)
        sizes = [self._sizes(len(universe)) for universe in universes]
        advance = tools.track(sum(map(len, sizes)) * self.starts, "search")
        labels = view.labels if self.classes == "mask" else None
        for universe, own in zip(universes, sizes, strict=True):
            if released:
                find = functools.partial(compat.search, Problem.of(influence.block(universe), labels, overwrite=True))
            else:
                find = functools.partial(search, objective_of(influence, universe, labels))
            for size in own:
                found = find(size, self.starts, rng, advance)
                enlarged = len(view.labels) / len(universes) / len(universe)
                yield Cuts(size, universe[found.members], found.objectives, enlarged)

    @property
    def _by_class(self) -> bool:
        return self.score_by != "frequency" or self.classes == "each"

    def _universes(self, labels: np.ndarray) -> list[np.ndarray]:
        """What is searched as a set of its own: every class, int64 (n_c,), or all examples."""
        if self._by_class:
            return [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return [np.arange(len(labels))]

    def _fractions(self) -> tuple[float, ...]:
        return self.sizes or (_CLASS_SIZES if self._by_class else _SET_SIZES)

    def _sizes(self, examples: int) -> list[int]:
        """Of the groups that are searched for among so many examples."""
        from bdbench_datamodel import compat
        from bdbench_datamodel.search import counts

        return counts(self._fractions(), examples) if self.compat == "none" else compat.sizes(examples)

    def _check_sizes(self, labels: np.ndarray) -> None:
        """Raises BdbenchError if no group is to be searched for, before anything is trained."""
        largest = max(map(len, self._universes(labels)))
        if not self._sizes(largest):
            given = "+".join(f"{f:g}" for f in self._fractions())
            where = "the largest class" if self._by_class else "the set"
            raise BdbenchError(
                f"sizes={given} leave no group of at least 2 examples, and as many beside it, among the {largest} of "
                f"{where}: expected other fractions, or more examples"
            )
