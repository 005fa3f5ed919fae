"""Anti-backdoor learning: what is learnt at once is isolated, and unlearnt in the end."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, Recipe, RobustTraining, Streams, Tools, TrainingView, param
from bdbench_baselines.low_loss import log_likelihood

if TYPE_CHECKING:
    import torch

    from bdbench import Victim

# Of the epochs; 20 of the paper's 100.
_UNLEARN = 0.2


@dataclass(frozen=True, kw_only=True)
class AntiBackdoorLearning(RobustTraining):
    """Isolates the examples of lowest loss early in training, trains on the others, and unlearns the isolated.

    First local gradient ascent, on sign(l - gamma) l in place of the loss l, keeps l near gamma, while that of what is
    learnt at once falls; then the ``isolation`` share of lowest loss is set apart; training goes on with the rest; in
    the end the loss of the isolated is ascended. The stages have the authors' shares of the recipe's epochs (20, 60 and
    20 of 100); the first and the last are not augmented. l is the mean loss of a batch, as in the authors' code: of
    each example, as the paper's equation may be read, it holds the loss of poisons near gamma as well. The last
    stage is as long as theirs by the sum of its learning rates, 160 steps of .005 of the rate before, whatever the
    number of steps.
    """

    name = "abl"
    paper = "Li et al., Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021"
    assumption = (
        "The backdoor is learnt much faster than the task and is tied to one class, so that after a few epochs the "
        "examples of lowest loss are poisons."
    )
    gamma: float = param(0.5, help="the loss around which the first stage keeps what is not learnt at once", low=0)
    turning: float = param(0.2, help="the first stage's share of the epochs", low=0, high=0.8, exclusive=True)
    isolation: float = param(0.01, help="share of the examples that is isolated", low=0, high=1, exclusive=True)
    unlearning: float = param(0.8, help="sum of the last stage's learning rates / the recipe's", low=0, exclusive=True)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model after all three stages."""
        recipe = tools.recipe
        plain = dataclasses.replace(recipe, flip=False, crop_padding=0)
        early = _epochs(plain, self.turning)
        first = tools.restore(
            tools.saved(
                {"abl": "isolation", "gamma": self.gamma, "turning": self.turning},
                lambda: tools.train(view.images, view.labels, "isolate", recipe=early, loss=self._ascent).arrays(),
            )
        )
        isolated = lowest_loss(first.logits(view.images), view.labels, self.isolation, tools.streams)
        middle = _epochs(recipe, 1 - self.turning - _UNLEARN)
        second = tools.train(view.images[~isolated], view.labels[~isolated], "train", start=first, recipe=middle)
        late = _epochs(plain, _UNLEARN)
        steps = late.epochs * math.ceil(isolated.sum() / late.batch_size)
        # A recipe's rate rises from 0 and falls to 0, so that its mean is half of its peak.
        late = dataclasses.replace(late, lr=2 * self.unlearning / steps * recipe.lr)
        return tools.train(
            view.images[isolated], view.labels[isolated], "unlearn", start=second, recipe=late, loss=_unlearning
        )

    def _ascent(self, batch: Batch) -> torch.Tensor:
        return local_ascent(_loss(batch), self.gamma)


def local_ascent(loss: torch.Tensor, gamma: float) -> torch.Tensor:
    """sign(l - gamma) l of a loss l."""
    return (loss.detach() - gamma).sign() * loss


def lowest_loss(logits: np.ndarray, labels: np.ndarray, share: float, streams: Streams) -> np.ndarray:
    """bool (n,): the ``share`` of lowest cross-entropy, at least one example, and not all; ties by chance."""
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    lowest = np.zeros(len(labels), bool)
    chance = streams("ties").permutation(len(labels))
    lowest[np.lexsort((chance, -log_likelihood(logits, labels)))[:count]] = True
    return lowest


def _loss(batch: Batch) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(batch.network(batch.x), batch.labels)


def _unlearning(batch: Batch) -> torch.Tensor:
    return -_loss(batch)


def _epochs(recipe: Recipe, share: float) -> Recipe:
    return dataclasses.replace(recipe, epochs=max(1, round(share * recipe.epochs)))
