"""ASSET: a model that says nothing of clean examples, and the contrary of what the poisons teach."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from bdbench import Detector, Tools, TrainingView, param
from bdbench_baselines.low_loss import log_likelihood


def threshold(losses: np.ndarray, density: float) -> float:
    """Where a normal law, fitted to the lower half of the losses (n,), falls to ``density``; poisons are above it.

    The mean of the half, if the law is nowhere as dense.
    """
    lower = losses[losses <= np.quantile(losses, 0.5, method="lower")].astype(np.float64)
    # As of a mixture of one part, which is never narrower.
    deviation = math.sqrt(float(lower.var()) + 1e-6)
    exponent = -2 * math.log(density * deviation * math.sqrt(2 * math.pi))
    return float(lower.mean()) + deviation * math.sqrt(max(0.0, exponent))


@dataclass(frozen=True, kw_only=True)
class Asset(Detector):
    """The cross-entropy of a model made to have a high one on what clean examples do not teach, and on that alone.

    A new model descends the variance of its logits on clean examples, which ends as the same answer for all, less the
    cross-entropy of the most poisonous of each batch (the outer offset): on what both share, they cancel. The most
    poisonous are found by an inner offset: a small network on the victim's last feature maps is taught to tell the
    batch (1) from clean examples (0), and those of the batch are taken whose answer has an adjusted outlyingness above
    ``outlying``. The decision is the authors' for supervised learning as they describe it: losses above the point where
    a normal law that is fitted to the lower half of them falls below ``density``. In their code the law's factor (2
    pi)^(1/2) sigma stands beside the logarithm, not in it: the same where sigma is .4, but a narrower law flags a third
    of itself, and a wider one nothing.

    ``steps`` and rates are those of the authors' demonstration, one pass over 50,000 images in batches of 512; smaller
    sets are passed through more often. It departs from it: batches are half as large; one step of Adam descends both
    terms at once, where theirs takes one for each, and its rate falls to 0; feature maps are averaged to 2 x 2, of the
    evaluation mode; of the outlying, those that are taken for clean are left out; and the inner rate is theirs at the
    8,192 features that they have, and proportionally larger for fewer, or else the inner network learns next to nothing
    (its answers on digits stay within .43 to .57).
    """

    name = "asset"
    paper = (
        "Pan et al., ASSET: Robust Backdoor Data Detection Across a Multiplicity of Deep Learning Paradigms, "
        "USENIX Security 2023"
    )
    assumption = "What poisons teach has nothing in common with what clean examples teach, and is learnt as fast."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    steps: int = param(100, help="steps of the outer offset, at least", low=1)
    batch: int = param(256, help="examples in a step", low=2)
    lr: float = param(2e-4, help="peak learning rate of the outer offset", low=0, exclusive=True)
    inner_steps: int = param(100, help="steps of the inner offset for each outer one", low=1)
    inner_lr: float = param(1e-4, help="its learning rate for 8,192 features", low=0, exclusive=True)
    outlying: float = param(2.0, help="adjusted outlyingness above which an example's loss is ascended", low=0)
    density: float = param(1e-6, help="of the lower half's law, below which a loss is flagged", low=0, exclusive=True)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The cross-entropy of each example, float64 (n,); concludes with those above the threshold."""
        from bdbench_baselines.offset import InnerOffset, Offset

        clean = tools.clean_examples(self.clean)
        settings = InnerOffset(self.inner_steps, self.inner_lr, self.outlying)
        loss = Offset(tools.victim, view.images, np.asarray(clean.images), settings)
        epochs = math.ceil(self.steps / math.ceil(len(view.labels) / self.batch))
        recipe = dataclasses.replace(
            tools.recipe,
            epochs=epochs,
            batch_size=self.batch,
            lr=self.lr,
            optimizer="adamw",
            weight_decay=0.0,
            warmup=0.0,
            flip=False,
            crop_padding=0,
        )
        kept = {"asset": "offset", "clean": self.clean, **dataclasses.asdict(settings)}
        model = tools.train(view.images, view.labels, "offset", recipe=recipe, loss=loss, kept=kept)
        losses = -log_likelihood(model.logits(view.images), view.labels)
        tools.conclude(flagged=losses > threshold(losses, self.density))
        return losses
