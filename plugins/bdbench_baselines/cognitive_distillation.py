"""Cognitive distillation: of a triggered image the model needs few pixels to say what it says."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdbench import Detector, Tools, TrainingView, param

# The paper's weight of the norm, .01 at 32 x 32 and .001 at 224 x 224, as a power of the number of pixels.
_WEIGHT, _SIDE, _POWER = 0.01, 32, np.log(10) / (2 * np.log(224 / 32))


@dataclass(frozen=True, kw_only=True)
class CognitiveDistillation(Detector):
    """Minus the L1 norm of the smallest mask of an image under which the victim's logits stay as they are.

    Pixels that the mask leaves out have a random colour, another at each step; the mask is found by Adam on the change
    of the logits + ``sparsity`` times its norm + ``smooth`` times its total variation (eq. 1 and 2 of the paper; see
    ``distillation``). That is the paper's CD on logits, with the settings of its appendix B.3; the authors' code has
    ``smooth`` 1. They draw a colour for each image, here all images meet the same ones. A norm is flagged if it is
    below the mean less ``gamma`` deviations of clean examples' norms (sec. 3.2); the paper has no rule without these,
    so that there is no decision but with ``oracle=true``.
    """

    name = "cognitive-distillation"
    paper = "Huang et al., Distilling Cognitive Backdoor Patterns within an Image, ICLR 2023"
    assumption = "Whatever the trigger covers, a few of its pixels are all that the model needs to give its label."
    steps: int = param(100, help="steps of Adam", low=1)
    lr: float = param(0.1, help="its learning rate", low=0, exclusive=True)
    sparsity: float | None = param(None, help="weight of the norm (none: .01 at 32 x 32, .001 at 224 x 224)", low=0)
    smooth: float = param(10.0, help="weight of the total variation", low=0)
    gamma: float = param(1.0, help="deviations below the mean of clean norms from which it is flagged", low=0)
    oracle: bool = param(False, help="decide by the norms of clean examples", oracle="clean_set")
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Minus the norms, in pixels, float64 (n,); concludes with what is flagged if it is told clean examples.

        Raises BdbenchError if there are not as many of these.
        """
        norms = self._norms(view.images, "training set", tools)
        if self.oracle:
            clean = tools.clean_examples(self.clean)
            usual = self._norms(np.asarray(clean.images), f"{len(clean.labels)} clean", tools)
            tools.conclude(flagged=norms < usual.mean() - self.gamma * usual.std())
        return -norms

    def _norms(self, images: np.ndarray, name: str, tools: Tools) -> np.ndarray:
        """The norm of each image's mask, float64 (n,); kept in pieces."""
        from bdbench_baselines.distillation import PIECE, mask_norms

        sparsity = weight_for(*images.shape[1:3]) if self.sparsity is None else self.sparsity
        settings: dict[str, Any] = {"steps": self.steps, "lr": self.lr, "sparsity": sparsity, "smooth": self.smooth}
        model = tools.victim.module().eval().requires_grad_(False)
        seed = tools.shared_streams.integer("cognitive-distillation")
        configs = [
            {"cognitive-distillation": name, "piece": piece, **settings} for piece in range(-(-len(images) // PIECE))
        ]
        advance, found = tools.track(len(images), f"distil the {name}"), []
        for made in tools.saved_each(
            configs, functools.partial(mask_norms, model, images, seed, tools.device, **settings)
        ):
            found.append(made["norms"])
            advance(len(found[-1]))
        return np.concatenate(found)


def weight_for(height: int, width: int) -> float:
    """The weight of the norm for images of that size: the paper's at its two sizes, and on the line through them."""
    return float(_WEIGHT * (_SIDE**2 / (height * width)) ** _POWER)
