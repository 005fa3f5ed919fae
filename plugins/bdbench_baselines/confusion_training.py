"""Confusion training: what a model still fits while wrong labels make it forget the task are poisons."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Detector, Split, Tools, TrainingView, param
from bdbench_baselines.confusion_rules import distilled, likelihood_ratio
from bdbench_baselines.low_loss import log_likelihood

if TYPE_CHECKING:
    from bdbench import Victim

# The authors' settings for CIFAR-10, by round: of the set, how much is confused against; the confusion's weight over
# that of the distilled set, which is in every other of their steps; and their number of steps times the learning rate.
_SHARES = (1.0, 1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100)
_WEIGHTS = (20, 20, 20, 30, 30, 15)
_RATES = (6.0, 6.0, 6.0, 20.0, 20.0, 20.0)
_EVERY = 2
# Of the epochs; 40 of the authors' 100.
_PRETRAINING = 0.4
_BATCH, _MOMENTUM, _DECAY = 32, 0.7, 1e-4


@dataclass(frozen=True, kw_only=True)
class ConfusionTraining(Detector):
    """Iterative poison distillation by confusion training: six rounds, each with a smaller set of suspects.

    A round trains a model on the distilled set, then goes on training it, on batches of clean examples with random
    wrong labels and, with a small weight, on batches of the distilled set. That ends what clean labels have in common
    with images, and leaves what the trigger has. The examples of lowest loss, ever fewer (1/2 to 1/100 of the set), are
    the next distilled set; the last one is joined with the clean examples for its training. The score is log p(y | x)
    by the last confused model. Its decision is that of the authors' code: an example is isolated if the model
    predicts its label; of a label, all isolated are flagged if two Gaussians, of its isolated and its other features in
    two principal components, are likelier than one by a factor of ``ratio`` for each example, or of ``ratio_top`` for
    the label where it is largest.

    The victim stands in for the first round's model, which is the same training. Numbers are those of the authors' code
    for CIFAR-10; pretraining has its shares of the recipe's epochs. Confusion takes at least ``steps`` steps instead of
    2,000 to 6,000, at rates whose sum is the same, so that with few (80 on digits) they are too high for the trigger to
    be kept; and a clean batch is always of the distilled batch's size.
    """

    name = "confusion-training"
    paper = "Qi et al., Towards A Proactive ML Approach for Detecting Backdoor Poison Samples, USENIX Security 2023"
    assumption = (
        "A model can be made to forget how labels depend on what images show, with wrongly labelled clean images, and "
        "keeps what it knows of the trigger."
    )
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    steps: int = param(1000, help="steps of confusion in each round, at least", low=1)
    ratio: float = param(math.e, help="how much likelier two clusters make a label poisoned", low=1)
    ratio_top: float = param(1.5, help="the same for the label where they are likeliest", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """log p(y | x) by the last confused model, float64 (n,); concludes with the isolated of poisoned labels."""
        clean = tools.clean_examples(self.clean)
        base = confused = tools.victim
        fit = np.zeros(len(view.labels))
        for turn, share in enumerate(_SHARES):
            chosen = distilled(fit, view.labels, share, tools.streams.child(f"{turn}"))
            if turn:
                base = _pretrained(view, chosen, clean if turn == len(_SHARES) - 1 else None, base, turn, tools)
            confused = self._confused(view, chosen, clean, base, turn, tools)
            logits = confused.logits(view.images)
            fit = log_likelihood(logits, view.labels)
        isolated = logits.argmax(1) == view.labels
        ratios = _ratios(confused.features(view.images), view.labels, isolated)
        top = max(ratios.values())
        poisoned = [y for y, ratio in ratios.items() if ratio > (self.ratio_top if ratio == top else self.ratio)]
        tools.conclude(flagged=isolated & np.isin(view.labels, poisoned))
        return fit

    def _confused(
        self, view: TrainingView, chosen: np.ndarray, clean: Split, base: Victim, turn: int, tools: Tools
    ) -> Victim:
        from bdbench_baselines.confusion import Confusion, label_weights

        a_pass = math.ceil(len(chosen) / min(_BATCH, len(chosen)))
        epochs = math.ceil(self.steps / a_pass)
        recipe = dataclasses.replace(
            tools.recipe,
            epochs=epochs,
            batch_size=_BATCH,
            optimizer="sgd",
            # The rate falls to 0, so that its mean is half of its peak.
            lr=2 * _RATES[turn] / (epochs * a_pass),
            momentum=_MOMENTUM,
            weight_decay=_DECAY,
            warmup=0.0,
            flip=False,
            crop_padding=0,
        )
        images, labels = view.images[chosen], view.labels[chosen]
        weight, equal = 1 / _WEIGHTS[turn] / _EVERY, turn == len(_SHARES) - 1
        loss = Confusion(clean, label_weights(labels, tools.num_classes, equal), weight)
        kept = {"confusion-training": weight, "equal": equal, "clean": self.clean}
        return tools.train(images, labels, f"confuse {turn}", start=base, recipe=recipe, loss=loss, kept=kept)


def _pretrained(
    view: TrainingView, chosen: np.ndarray, clean: Split | None, base: Victim, turn: int, tools: Tools
) -> Victim:
    epochs = max(1, round(_PRETRAINING * tools.recipe.epochs))
    recipe = dataclasses.replace(tools.recipe, epochs=epochs, flip=False, crop_padding=0)
    images, labels = view.images[chosen], view.labels[chosen]
    if clean is not None:
        images = np.concatenate([images, np.asarray(clean.images)])
        labels = np.concatenate([labels, clean.labels])
    return tools.train(images, labels, f"pretrain {turn}", start=base, recipe=recipe)


def _ratios(features: np.ndarray, labels: np.ndarray, isolated: np.ndarray) -> dict[int, float]:
    return {int(y): likelihood_ratio(features[labels == y], isolated[labels == y]) for y in np.unique(labels)}
