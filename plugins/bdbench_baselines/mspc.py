"""Mask-aware scaled prediction consistency: the model stands by its answer to a triggered image as its pixels grow."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdbench import Detector, Tools, TrainingView, param

_SCALES = tuple(range(2, 13))


@dataclass(frozen=True, kw_only=True)
class MaskAwareConsistency(Detector):
    """How often the victim gives an image the same answer when what a mask leaves of it is scaled by 2 to 12.

    The score of x is the mean over scales n of 1 where the answers to x and to n (x - ``shift``) mask, cut off at 0 and
    1, are the same, and -1 where not. The mask, one for all images, and who is suspect are found in turn (the levels of
    sec. 4 of the paper): suspect is first whose score is above 0 with all pixels; then ``rounds`` times the mask
    shrinks as far as the answers to the suspects allow, in KL divergence, and suspect, and flagged in the end, is whose
    score is above 0 with that. Neither clean examples nor a threshold are needed. As the score has but 12 values, those
    with the same are ranked by the mean probability of the answer to x, which never outweighs it. The authors' steps
    are 10 epochs of 50 batches; by their notes 2 do as well, which is the default here. A batch is of suspects alone,
    since nobody else has a weight.
    """

    name = "mspc"
    paper = (
        "Pal et al., Backdoor Secrets Unveiled: Identifying Backdoor Data with Optimized Scaled Prediction "
        "Consistency, ICLR 2024"
    )
    assumption = (
        "The trigger keeps its effect however bright its place in the image is made, where other images lose their "
        "label."
    )
    rounds: int = param(4, help="how often the mask and the suspects are found in turn (0: no mask)", low=0)
    steps: int = param(100, help="steps of SGD on the mask in each round", low=1)
    batch: int = param(100, help="suspects per step", low=1)
    lr: float = param(0.1, help="its learning rate", low=0, exclusive=True)
    sparsity: float = param(0.01, help="weight of the mask's norm", low=0)
    shift: float = param(0.1, help="what is taken from every pixel, of 0..1, before it is scaled", low=0, high=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The mean agreement, -1..1, plus what tells ties apart, float64 (n,); concludes with those above 0."""
        from bdbench_baselines.scaling import better_mask, consistency

        model, images = tools.victim.module().eval().requires_grad_(False), view.images
        seen: dict[str, Any] = {"shift": self.shift, "scales": list(_SCALES)}
        settings: dict[str, Any] = {"steps": self.steps, "batch": self.batch, "lr": self.lr, "sparsity": self.sparsity}
        advance = tools.track(self.rounds, "mask")
        mask, known = np.ones(images.shape[1:3], np.float32), {"mspc": "answers", "round": 0, **seen}
        found = tools.saved(known, functools.partial(consistency, model, images, mask, tools.device, **seen))
        for number in range(1, self.rounds + 1):
            suspects = np.flatnonzero(found["agreement"] > 0)
            if not len(suspects):
                break
            seed, share = tools.shared_streams.integer(f"mspc:{number}"), len(suspects) / len(images)
            shrink = functools.partial(
                better_mask, model, images[suspects], mask, seed, tools.device, share=share, **settings, **seen
            )
            known = {"round": number, **settings, **seen}
            mask = tools.saved({"mspc": "mask", **known}, shrink)["mask"]
            answer = functools.partial(consistency, model, images, mask, tools.device, **seen)
            found = tools.saved({"mspc": "answers", **known}, answer)
            advance(1)
        tools.conclude(flagged=found["agreement"] > 0)
        # The values of the agreement are 2 / 11 apart.
        return found["agreement"] + found["confidence"] / len(_SCALES)
