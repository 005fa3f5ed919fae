"""The datamodel defense: ensemble, matrix, search, score."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import BdbenchError, Detector, Tools, TrainingView, param

if TYPE_CHECKING:
    from bdbench_datamodel.ensemble import SurrogateRecipe
    from bdbench_datamodel.search import Cuts
    from bdbench_datamodel.surrogates import BatchedNetwork

_CHUNK_FLOATS = 16e6


@dataclass(frozen=True, kw_only=True)
class Datamodel(Detector):
    """Finds the training examples that support each other most, as a backdoor's do.

    Small networks are trained on random subsets; how each example moves the margin of each other one gives
    a matrix; the subsets whose submatrix sums highest are searched for at several sizes; an example's score
    is how often it was selected. The networks are an MLP below 16 pixels a side, else a network of patches.
    """

    name = "datamodel"
    paper = "Khaddaj et al., Rethinking Backdoor Attacks, ICML 2023, arXiv:2307.10163"
    models: int = param(2000, help="networks in the ensemble", low=2)
    alpha: float = param(0.2, help="share of the training set in each subset", low=0, high=1, exclusive=True)
    estimator: Literal["out-of-sample", "all", "covariance"] = param(
        "out-of-sample",
        help="difference of means over the models without the target, or over all; or response covariance",
    )
    classes: Literal["mask", "each", "ignore"] = param(
        "mask", help="one search with entries between labels zeroed; a search in each label; or neither"
    )
    sizes: tuple[float, ...] = param(
        (0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1),
        help="sizes searched, as fractions of the set",
        low=0,
        high=1,
        exclusive=True,
    )
    starts: int = param(100, help="random starts of the search, for each size", low=1)
    net: Literal["auto", "mlp", "patches"] = param("auto", help="the networks of the ensemble")
    hidden: int | None = param(None, help="their hidden units (none: 128 for mlp, 64 for patches)", low=1)
    epochs: int | None = param(None, help="passes over the subset (none: 15 for mlp, 20 for patches)", low=1)
    chunk: int | None = param(None, help="networks trained at once (none: by memory)", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Selection frequency over sizes, float64 (n,). Raises BdbenchError if alpha leaves too few examples."""
        from bdbench_datamodel.estimators import difference_of_means, response_covariance
        from bdbench_datamodel.scoring import selection_frequency

        masks, margins = self.ensemble(view, tools)
        if self.estimator == "covariance":
            weights = response_covariance(masks, margins)
        else:
            weights = difference_of_means(masks, margins, out_of_sample=self.estimator == "out-of-sample")
        return selection_frequency(self.cuts(weights, view, tools), len(view.labels))

    def ensemble(self, view: TrainingView, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """Subsets, bool (models, n), and margins, float32 (models, n); computed and kept chunk by chunk."""
        import torch

        from bdbench_datamodel.ensemble import draw_subsets, train_margins

        n = len(view.labels)
        held = round(self.alpha * n)
        if not 2 <= held <= n - 2:
            raise BdbenchError(
                f"alpha={self.alpha:g} leaves subsets of {held} of {n} examples: expected between 2 and {n - 2}"
            )
        network, recipe, what = self._surrogate(view)
        streams = tools.shared_streams.child("ensemble")
        masks = draw_subsets(n, self.models, self.alpha, streams("subsets"))

        @functools.cache
        def tensors() -> tuple[torch.Tensor, torch.Tensor]:
            inputs, labels = network.prepare(np.array(view.images)), torch.from_numpy(view.labels.copy())
            return inputs.to(tools.device), labels.to(tools.device)

        def train(part: slice) -> dict[str, np.ndarray]:
            seed = streams.integer("networks")
            return {"margins": train_margins(network, *tensors(), masks[part], recipe, seed)}

        chunk = self.chunk or self._chunk(network, recipe, held)
        advance = tools.track(self.models, "networks")
        parts = []
        for start in range(0, self.models, chunk):
            part = slice(start, min(start + chunk, self.models))
            config = {"ensemble": what, "models": self.models, "alpha": self.alpha, "part": [part.start, part.stop]}
            parts.append(tools.saved(config, functools.partial(train, part))["margins"])
            advance(part.stop - part.start)
        tools.count_models(self.models)
        margins = np.concatenate(parts)
        broken = int((~np.isfinite(margins)).any(1).sum())
        if broken:
            raise BdbenchError(f"{broken} of {self.models} networks of the ensemble diverged: expected finite margins")
        return masks, margins

    def cuts(self, weights: np.ndarray, view: TrainingView, tools: Tools) -> Iterator[Cuts]:
        """The local optima at every size; with classes=each, for every label in turn."""
        from bdbench_datamodel.search import Cuts, Problem, search

        rng = tools.streams("search")
        n = len(view.labels)
        sizes = sorted({max(2, round(f * n)) for f in self.sizes})
        largest = n - 1
        if self.classes == "each":
            # Beyond half of a label its complement would be the smaller group, and the odd one out.
            largest = int(np.bincount(view.labels).max()) // 2
        if sizes[0] > largest:
            given = "+".join(f"{f:g}" for f in self.sizes)
            raise BdbenchError(
                f"sizes={given} of {n} examples are all above {largest}, the largest that classes={self.classes} "
                f"can search: expected fractions below {largest / n:.2g}"
            )
        if self.classes != "each":
            problem = Problem.of(weights, view.labels if self.classes == "mask" else None)
            usable = [k for k in sizes if k <= largest]
            advance = tools.track(len(usable) * self.starts, "search")
            for size in usable:
                yield search(problem, size, self.starts, rng, advance)
            return
        groups = [np.flatnonzero(view.labels == label) for label in np.unique(view.labels)]
        work = [(group, k) for group in groups for k in sizes if k <= len(group) // 2]
        advance = tools.track(len(work) * self.starts, "search")
        for group, size in work:
            found = search(Problem.of(weights[np.ix_(group, group)]), size, self.starts, rng, advance)
            yield Cuts(size, group[found.members], found.objectives)

    def _surrogate(self, view: TrainingView) -> tuple[BatchedNetwork, SurrogateRecipe, dict[str, object]]:
        """The network, its recipe, and both as JSON for the store."""
        from bdbench_datamodel.ensemble import SurrogateRecipe
        from bdbench_datamodel.surrogates import BatchedMLP, BatchedPatchNet

        shape = view.images.shape[1:]
        small = min(shape[:2]) < 16
        if small and self.net == "patches":
            raise BdbenchError(f"net=patches needs images of at least 16 x 16, not {shape[0]} x {shape[1]}: use mlp")
        network: BatchedNetwork
        if self.net == "mlp" or small:
            network = BatchedMLP(shape, view.num_classes, self.hidden or 128)
            recipe = SurrogateRecipe(epochs=self.epochs or 15, batch_size=16, lr=0.05)
        else:
            network = BatchedPatchNet(shape, view.num_classes, self.hidden or 64)
            recipe = SurrogateRecipe(epochs=self.epochs or 20, batch_size=25, lr=0.1, precision="bfloat16")
        return (
            network,
            recipe,
            {"net": type(network).__name__, "hidden": network.hidden, "recipe": asdict(recipe)},
        )

    def _chunk(self, network: BatchedNetwork, recipe: SurrogateRecipe, held: int) -> int:
        """As many networks as keep one step's numbers in about the size of a processor's caches."""
        batch = min(recipe.batch_size, held)
        return int(np.clip(_CHUNK_FLOATS / (batch * network.floats_per_example()), 4, 100))
