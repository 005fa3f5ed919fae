"""Feature consistency towards transformations: the features of a triggered image change when it is turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Detector, Tools, TrainingView, param


@dataclass(frozen=True, kw_only=True)
class FeatureConsistency(Detector):
    """The mean squared change of an example's features when it is turned at random and moved.

    The sample-distinguishment module of D-BR and D-ST (sec. 3.2 and algorithm 1 of the paper; see ``sensitivity``): a
    model is trained without augmentation for a few epochs, then tuned on the intra-class loss of the authors' code
    alone, the mean cosine between the centres of the labels in a batch, so that poisons part from their label's clean
    examples; and the change (eq. 1) is measured on that model. Theirs are 2 epochs and 10; the latter are here as many
    steps as 10 epochs of 50,000 images have. ``start=victim`` tunes the victim, as others use it. The ``poisoned``
    share that changes most is flagged (alpha_p), on a clean set as well; their alpha_c, the share that is taken for
    clean, decides nothing here.
    """

    name = "fct"
    paper = "Chen, Wu and Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022"
    assumption = (
        "The model is fitted to the trigger so closely that once an image is turned or moved its features are no "
        "longer those of poisons; those of clean images change less."
    )
    start: Literal["early", "victim"] = param("early", help="what is tuned: a model of a few epochs, or the victim")
    early: int = param(2, help="epochs of that model", low=1)
    spread: int = param(3900, help="steps on the intra-class loss (0: none)", low=0)
    poisoned: float = param(0.05, help="share of the examples that is flagged", low=0, high=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The mean squared change of a feature, float64 (n,); concludes with the largest."""
        # It brings torch along.
        from bdbench import most_suspicious
        from bdbench_baselines.sensitivity import consistency, sensitive

        start = tools.victim if self.start == "victim" else None
        scores = consistency(sensitive(view, tools, self.early, self.spread, start), view.images, tools.streams)
        flagged = np.zeros(len(scores), bool)
        flagged[most_suspicious(scores, self.poisoned, tools.streams.integer("ties"))] = True
        tools.conclude(flagged=flagged)
        return scores
