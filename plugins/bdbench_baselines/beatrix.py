"""Beatrix: how channels of a feature map go together is unlike for poisons, even if each has another trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Detector, Tools, TrainingView, param
from bdbench_baselines.anomaly import CONTAMINATED, index

if TYPE_CHECKING:
    import torch

_BATCH = 256
# The most examples of a group, and the folds.
_COMPARED, _FOLDS = 500, 5
# What scores take for no deviation at all.
_NONE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Beatrix(Detector):
    """How far the Gram matrices of an example's feature map are from those of clean examples of its label.

    Sec. IV of the paper: of the map that enters the network's last stage (see ``gram``), Gram matrices of the orders 1
    to 8 are taken; of each entry, 10 median absolute deviations about the median of the label's clean examples are
    usual, and the deviation of an example is the mean of what lies beyond, relative to the bound. Its threshold is the
    ``percentile`` of what clean examples deviate from the others, in five folds. In each label the group above it is
    compared with the rest by a kernel two-sample test; labels whose statistic lies above e^2 median absolute deviations
    from the median are contaminated, and of these the groups are flagged; with ``everywhere=true`` those of all labels,
    as BackdoorBench does, whatever the test says. The score is log(deviation / threshold).

    The clean examples of a label are those that the victim predicts it for, as in the authors' code; a label for which
    there are not two has the lowest score. The paper takes 30 of each. BackdoorBench leaves out the power inside of the
    Gram matrices, as a result of which its orders differ in their roots alone.
    """

    name = "beatrix"
    paper = 'Ma et al., The "Beatrix" Resurrections: Robust Backdoor Detection via Gram Matrices, NDSS 2023'
    assumption = (
        "Triggered images activate channels together that clean images of the target label do not, whether or not they "
        "share a trigger."
    )
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    percentile: float = param(0.95, help="the share of clean examples below the threshold", low=0, high=1)
    threshold: float = param(CONTAMINATED, help="the anomaly index from which on a label is contaminated", low=0)
    everywhere: bool = param(False, help="flag what is above its threshold in every label")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """log(deviation / threshold), float64 (n,); concludes with the groups of contaminated labels."""
        from bdbench_baselines.gram import maps

        images = np.asarray(tools.clean_examples(self.clean).images)
        trusted, theirs = maps(tools.victim, images), tools.victim.predict(images)
        names, scores = np.unique(view.labels), np.full(len(view.labels), np.nan)
        statistics = np.zeros(len(names))
        advance = tools.track(len(names), "compare")
        for place, label in enumerate(names):
            members = np.flatnonzero(view.labels == label)
            clean = trusted[np.flatnonzero(theirs == label)]
            if len(clean) > 1:
                scores[members], pooled = self._compared(view.images[members], clean, tools)
                chance = tools.streams(f"groups:{label}")
                above = scores[members] > 0
                groups = [pooled[chance.permutation(np.flatnonzero(g))[:_COMPARED]] for g in (above, ~above)]
                statistics[place] = discrepancy(*groups)
            advance(1)
        known = scores[~np.isnan(scores)]
        scores[np.isnan(scores)] = known.min() if len(known) else 0.0
        contaminated = names[index(statistics) > self.threshold]
        tools.conclude(flagged=(scores > 0) & (self.everywhere | np.isin(view.labels, contaminated)))
        return scores

    def _compared(self, images: np.ndarray, clean: torch.Tensor, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """One label's scores (n,), and its maps, averaged over positions, (n, c)."""
        from bdbench_baselines.gram import Usual, maps

        limit, usual = cut(clean, self.percentile), Usual(clean)
        deviations, pooled = [], []
        for start in range(0, len(images), _BATCH):
            seen = maps(tools.victim, images[start : start + _BATCH])
            deviations.append(usual.deviations(seen))
            pooled.append(seen.mean(2).cpu().numpy())
        return np.log((np.concatenate(deviations) + _NONE) / (limit + _NONE)), np.concatenate(pooled)


def cut(clean: torch.Tensor, percentile: float) -> float:
    """The ``percentile`` of the deviations of clean maps (m, c, positions) from the others, in folds."""
    from bdbench_baselines.gram import Usual

    held: list[float] = []
    for fold in np.array_split(np.arange(len(clean)), min(_FOLDS, len(clean))):
        rest = np.setdiff1d(np.arange(len(clean)), fold)
        held.extend(Usual(clean[rest]).deviations(clean[fold]))
    return sorted(held)[min(int(percentile * len(held)), len(held) - 1)]


def discrepancy(one: np.ndarray, other: np.ndarray) -> float:
    """m n / (m + n) times the squared maximum mean discrepancy of points (m, c) and (n, c); 0 if one has none.

    The kernel is the sum of two Gaussian ones, exp(-d^2 / s), s the median of all d^2, and half of that.
    """
    from scipy.spatial.distance import cdist

    m, n = len(one), len(other)
    if not m or not n:
        return 0.0
    every = np.concatenate([one, other]).astype(np.float64)
    squares = cdist(every, every, "sqeuclidean")
    middle = max(float(np.median(squares)), np.finfo(float).tiny)
    kernel = np.exp(-squares / middle) + np.exp(-2 * squares / middle)
    return float(m * n / (m + n) * (kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()))
