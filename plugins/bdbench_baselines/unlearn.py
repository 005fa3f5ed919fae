"""Unlearning of what a detector flagged: the victim's loss on it is ascended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bdbench import (
    Batch,
    BdbenchError,
    Detector,
    Oracle,
    RobustTraining,
    Tools,
    TrainingView,
    Workshop,
    param,
)
from bdbench_baselines.abl_isolation import AblIsolation

if TYPE_CHECKING:
    import torch

    from bdbench import Victim

# Of the recipe's epochs; 20 of the paper's 100.
_EPOCHS = 0.2


@dataclass(frozen=True, kw_only=True)
class Unlearning(RobustTraining):
    """Ascends the loss of the victim on the training examples that a detector flagged, as the last stage of ABL does.

    The detector is any of the training set, with parameters as [NAME:KEY=VALUE,...], by default the paper's own:
    what its decision flags or, with ``share``, the most suspicious by its scores. It is told what it asks for, and
    this defense with it. Repairs get no training set, so that this is of the stage that does; its model is the
    victim all the same, not trained anew. The stage has a fifth of the recipe's epochs, without augmentation, and
    rates that add up to ``unlearning`` of the recipe's, 160 steps of .005 of the rate before in the paper, whatever
    the number of steps. If nothing is flagged, the victim is left as it is.
    """

    name = "unlearn"
    paper = "Li et al., Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021"
    assumption = "What is flagged are poisons, and few of them are enough to unlearn the backdoor of all."
    detector: tuple[Detector, ...] = param((AblIsolation(),), help="the detector: NAME or [NAME:KEY=VALUE,...]")
    share: float | None = param(None, help="the most suspicious to unlearn (none: what it flags)", low=0, high=1)
    unlearning: float = param(0.8, help="sum of the learning rates / the recipe's", low=0, exclusive=True)

    def __post_init__(self) -> None:
        """Check the parameters. Raises BdbenchError for any number of detectors but one."""
        super().__post_init__()
        if len(self.detector) != 1:
            raise BdbenchError(f"defense 'unlearn': detector={len(self.detector)} of them is not allowed: expected one")

    @property
    def told(self) -> tuple[Oracle, ...]:
        """What its detector is told."""
        return tuple(dict.fromkeys([*super().told, *self.detector[0].told]))

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The victim without what was flagged. Raises BdbenchError if the detector has no decision of its own."""
        chosen = np.flatnonzero(self._flagged(view, tools))
        if not len(chosen):
            return tools.victim
        # One example alone has no batch statistics.
        chosen = np.repeat(chosen, 2) if len(chosen) == 1 else chosen
        recipe = tools.recipe
        epochs = max(1, round(_EPOCHS * recipe.epochs))
        steps = epochs * math.ceil(len(chosen) / recipe.batch_size)
        # A recipe's rate rises from 0 and falls to 0, so that its mean is half of its peak.
        rate = 2 * self.unlearning / steps * recipe.lr
        late = dataclasses.replace(recipe, epochs=epochs, lr=rate, flip=False, crop_padding=0)
        images, labels = view.images[chosen], view.labels[chosen]
        kept = {"loss": "ascended"}
        return tools.train(images, labels, "unlearn", start=tools.victim, recipe=late, loss=_ascent, kept=kept)

    def _flagged(self, view: TrainingView, tools: Tools) -> np.ndarray:
        detector = self.detector[0]
        heard = Listening(tools.part("detector"))
        scores = detector.score(view, cast(Tools, heard))
        if self.share is not None:
            # It brings torch along.
            from bdbench import most_suspicious

            flagged = np.zeros(len(scores), bool)
            flagged[most_suspicious(scores, self.share, tools.streams.integer("ties"))] = True
            return flagged
        if heard.flagged is None:
            who = f"defense 'unlearn': detector={detector.name}"
            raise BdbenchError(f"{who} has no decision of its own: expected one that has, or share")
        return heard.flagged


class Listening:
    """The tools of a detector that is part of another defense: they keep its decision in place of recording it."""

    def __init__(self, tools: Workshop) -> None:
        """Of other tools, whose everything else they are."""
        self.flagged: np.ndarray | None = None
        self._tools = tools

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tools, name)

    def conclude(
        self,
        p_value: float | None = None,
        flagged: np.ndarray | None = None,
        evidence: Mapping[int, float] | None = None,
    ) -> None:
        """Keep what is flagged, bool (n,)."""
        self.flagged = self.flagged if flagged is None else flagged


def _ascent(batch: Batch) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return -cross_entropy(batch.network(batch.x), batch.labels)
