"""The frequency detector: triggers leave high frequencies in an image that cameras do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdbench import Detector, Tools, TrainingView, param


@dataclass(frozen=True, kw_only=True)
class Frequency(Detector):
    """The log-odds that an image is manipulated, by a small network on its cosine transform; above 0 it is flagged.

    The network (``spectra``) learns to tell clean examples from copies of them with a white block, a block of noise,
    noise, a shadow, or some of another image (sec. 4 of the paper; see ``manipulations``, with blocks relative to the
    image's side). It knows neither labels nor the victim. Departures: it learns from the few clean examples that are
    set apart, not from a whole clean training set, in about as many ``passes``, by Adam in place of Adadelta; pixels
    are in 0..1, not in 0..255; and the shadow is a triangle, not a polygon.
    """

    name = "frequency"
    paper = "Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021"
    assumption = "The trigger is pasted or blended in, so that the image has high frequencies that natural ones lack."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to learn from (none: all that are set apart)", low=1)
    passes: int = param(50, help="passes over the clean examples", low=0)
    steps: int = param(300, help="steps of training, at least", low=1)
    batch: int = param(32, help="clean examples per step; as many manipulated ones go with them", low=1)
    lr: float = param(1e-3, help="learning rate of Adam", low=0, exclusive=True)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The log-odds, float64 (n,); concludes with those above 0.

        Raises BdbenchError if there are not as many clean examples.
        """
        from bdbench_baselines.spectra import log_odds, trained

        clean = np.asarray(tools.clean_examples(self.clean).images)
        steps = max(self.steps, math.ceil(self.passes * len(clean) / self.batch))
        settings: dict[str, Any] = {"steps": steps, "batch": self.batch, "lr": self.lr}
        seed = tools.shared_streams.integer("frequency")
        weights = tools.saved(
            {"frequency": len(clean), **settings}, lambda: trained(clean, seed, tools.device, **settings)
        )
        tools.count_models(1)
        scores = log_odds(weights, view.images, tools.device)
        tools.conclude(flagged=scores > 0)
        return scores
