"""The isolation of anti-backdoor learning alone: what is learnt at once, while the loss of the rest is held up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, Detector, Tools, TrainingView, param
from bdbench_baselines.abl import local_ascent, lowest_loss
from bdbench_baselines.low_loss import log_likelihood

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class AblIsolation(Detector):
    """log p(y | x) by a model of the first epochs, trained by local gradient ascent; the lowest losses are isolated.

    The first stage of ``abl``, as it is there (sec. 3.2 of the paper): the ``turning`` share of the recipe's epochs on
    sign(l - gamma) l, with l the mean loss of a batch and no augmentation. The ``isolation`` share of lowest loss is
    flagged, as in the paper whether anything is poisoned or not: the share does not depend on what is found. ``low-
    loss`` is the same at the end of ordinary training.
    """

    name = "abl-isolation"
    paper = "Li et al., Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021"
    assumption = (
        "The backdoor is learnt much faster than the task, so that after a few epochs the examples of lowest loss are "
        "poisons."
    )
    gamma: float = param(0.5, help="the loss around which what is not learnt at once is kept", low=0)
    turning: float = param(0.2, help="share of the recipe's epochs", low=0, high=1)
    isolation: float = param(0.01, help="share of the examples that is flagged", low=0, high=1, exclusive=True)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """log p(y | x), float64 (n,); concludes with the isolated."""
        epochs = max(1, round(self.turning * tools.recipe.epochs))
        recipe = dataclasses.replace(tools.recipe, epochs=epochs, flip=False, crop_padding=0)
        kept = {"abl-isolation": "ascent", "gamma": self.gamma}
        model = tools.train(view.images, view.labels, "isolate", recipe=recipe, loss=self._ascent, kept=kept)
        logits = model.logits(view.images)
        tools.conclude(flagged=lowest_loss(logits, view.labels, self.isolation, tools.streams))
        return log_likelihood(logits, view.labels)

    def _ascent(self, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return local_ascent(cross_entropy(batch.network(batch.x), batch.labels), self.gamma)
