"""The networks of incompatibility clustering: weak learners of subsets that expand to themselves, and self-paced ones.

Shares of epochs are those of the authors' code, where a weak learner has 40: here as many as the victim's recipe.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from bdbench import State, Tools, TrainingView
from bdbench_baselines.low_loss import log_likelihood

if TYPE_CHECKING:
    from bdbench import Victim

# Of a learner's epochs: the first refit, each later one, and each self-paced round.
_FIRST, _LATER, _PACED = 8 / 40, 4 / 40, 5 / 40
# How much of a loss, and of what a self-paced round said, is that of the rounds before.
_LOSS_KEPT, _SAID_KEPT = 0.9, 0.8
# Of the share that is kept overall, that of every label.
_OF_EACH_LABEL = 1 / 8


def expand(view: TrainingView, active: np.ndarray, share: float, expansion: int, name: str, tools: Tools) -> State:
    """One weak learner: its "core", bool (n,), a ``share`` of those ``active``, and what it predicts for all of them.

    Inverse self-paced learning: train on a part, keep what then has the lowest loss, of which a share that shrinks to
    the one wanted, go on training on one in ``expansion`` of those. The predictions, int64 (n,), are those of a new
    network trained on the core.
    """
    images, labels, core = view.images, view.labels, active.copy()
    chance = tools.shared_streams(f"ispl:{name}")
    losses, network = np.zeros(len(labels)), None
    refits = 0 if share >= 1 else 2 + int(np.clip(1 // share, 1, 3))
    # The first learner of a pass would else be trained on all, poisons and all.
    part = active & (chance.random(len(labels)) < 0.5) if active.all() else active
    for refit in range(refits):
        network = _trained(view, part, _FIRST if refit == 0 else _LATER, f"{name}: expand {refit}", tools, network)
        fresh = -log_likelihood(network.logits(images), labels)
        losses = _LOSS_KEPT * losses + (1 - _LOSS_KEPT) * fresh
        core = lowest(losses, labels, active, min(1.0, share * np.clip(refits - 2 - refit, 1, 3)))
        part = core & (chance.random(len(labels)) < 1 / expansion)
        part = part if part.sum() > 1 else core
    learner = _trained(view, core, 1.0, name, tools)
    return {"core": core, "predicted": learner.predict(images)}


def lowest(losses: np.ndarray, labels: np.ndarray, active: np.ndarray, share: float) -> np.ndarray:
    """bool (n,): the ``share`` of lowest loss of those ``active``, and of each of their labels an eighth of it."""
    kept = active & (losses <= np.quantile(losses[active], share))
    for label in np.unique(labels[active]):
        members = active & (labels == label)
        kept |= members & (losses <= np.quantile(losses[members], share * _OF_EACH_LABEL))
    return kept


def vote(predicted: np.ndarray, labels: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """bool (n,): whether most of the learners' predictions (m, n) are the label, and more than one; ties by chance."""
    votes = (predicted[:, :, None] == np.arange(max(predicted.max(), labels.max()) + 1)).sum(0)
    elected = (votes + 0.5 * chance.random(votes.shape)).argmax(1)
    return (elected == labels) & (votes.max(1) > 1)


def pace(view: TrainingView, said: State, rounds: range, tools: Tools) -> State:
    """Self-paced ``rounds``, each on what the model took for right: what ``said`` holds is carried on.

    "kept", bool (n,): what the next round is trained on; "right" and "sure", float64 (n,): whether the label was
    predicted, and its probability, averaged over the rounds; and the model's arrays.
    """
    kept, right, sure = said["kept"], said["right"], said["sure"]
    model = tools.restore(said) if "mean" in said else None
    for done in rounds:
        part = kept if kept.sum() > 1 else np.ones(len(kept), bool)
        model = _trained(view, part, _PACED, f"round {done}", tools, model)
        logits = model.logits(view.images)
        right = _SAID_KEPT * right + (1 - _SAID_KEPT) * (logits.argmax(1) == view.labels)
        sure = _SAID_KEPT * sure + (1 - _SAID_KEPT) * np.exp(log_likelihood(logits, view.labels))
        kept = right > 0.5
    return {"kept": kept, "right": right, "sure": sure, **(model.arrays() if model else {})}


def _trained(
    view: TrainingView, part: np.ndarray, share: float, name: str, tools: Tools, start: Victim | None = None
) -> Victim:
    recipe = dataclasses.replace(tools.recipe, epochs=max(1, round(share * tools.recipe.epochs)))
    # With something to call after each epoch the network itself is not kept: there are over a hundred.
    return tools.train(
        view.images[part], view.labels[part], name, start=start, recipe=recipe, each_epoch=lambda epoch, model: None
    )
