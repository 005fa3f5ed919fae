"""BTI-DBF: what may change all but the features that the task needs finds the trigger, and with it the target."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from bdbench import ModelDetector, Tools, Verdict, param

# In fewer a generator has not yet left where it began.
_FEWEST_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class BtiDbf(ModelDetector):
    """Inverts the trigger without trying label after label; the label that most images are then sent to is suspect.

    Sec. 3 of the paper: a mask on the features is learnt, with which the head still knows the label and without which
    it does not; then a generator of images, to keep what the mask covers and to change the rest as much as it can,
    within ``bound`` of mean squared change in normalised pixels (see ``decoupling.invert``). The score is the largest
    share of the images of other labels that end in one label; above ``share`` the model is flagged. The paper names
    the most frequent label, and has no rule for whether a model is backdoored at all: that one is ours.

    Departures: the features are those that enter the last linear layer, by the network's running statistics, where the
    authors' code learns the mask by those of batches; the generator is smaller than the authors' U-Net and adds to the
    image, so that untrained it changes little, which the authors train it to do first; steps are theirs for 2,500 clean
    images, however many there are. Where the head uses every feature for clean images, as that of a small network does,
    the mask covers them all and leaves the generator nothing to move: nothing is found.
    """

    name = "bti-dbf"
    paper = (
        "Xu et al., Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features, ICLR 2024"
    )
    assumption = "The trigger acts through other features than those by which the model knows clean images."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    mask_steps: int = param(400, help="steps of Adam for the mask", low=1)
    steps: int = param(600, help="steps of Adam for the generator", low=1)
    batch: int = param(128, help="clean images per step", low=1)
    bound: float = param(0.3, help="mean squared change of normalised pixels", low=0)
    width: int = param(32, help="channels of the generator's first layer", low=1)
    share: float = param(0.5, help="share of images sent to one label above which it is flagged", low=0, high=1)

    def inspect(self, tools: Tools) -> Verdict:
        """The verdict on the victim. Raises BdbenchError for a model without a linear head."""
        from bdbench_inspection.decoupling import invert
        from bdbench_inspection.generating import parts

        clean = tools.clean_examples(self.clean)
        settings: dict[str, Any] = {k: getattr(self, k) for k in ("mask_steps", "steps", "batch", "bound", "width")}
        model = parts(tools.victim, tools.num_classes, self.name)
        seed, images = tools.shared_streams.integer("bti-dbf"), np.asarray(clean.images)
        found = tools.saved(
            {"bti-dbf": "inversion", "clean": self.clean, **settings},
            lambda: invert(model, images, clean.labels, seed, tools.device, **settings),
        )
        shares = sent(found["hits"], clean.labels, tools.num_classes)
        largest = int(shares.argmax())
        flagged = bool(shares[largest] > self.share)
        return Verdict(float(shares[largest]), flagged, (largest,) if flagged else ())

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float]:
        """Steps of the generator: those of the mask, for which the model is not asked, are nothing beside them."""
        from bdbench_inspection.decoupling import invert
        from bdbench_inspection.generating import parts

        clean = tools.clean_examples(self.clean)
        images, labels = np.asarray(clean.images)[: self.batch], clean.labels[: self.batch]
        settings: dict[str, Any] = {k: getattr(self, k) for k in ("batch", "bound", "width")}
        model = parts(tools.victim, tools.num_classes, self.name)
        work = functools.partial(invert, model, images, labels, 0, tools.device, mask_steps=1, **settings)
        return lambda steps: work(steps=steps), self.steps

    def within(self, share: float, tools: Tools) -> Self | None:
        """With fewer steps."""
        steps, mask_steps = int(share * self.steps), max(1, int(share * self.mask_steps))
        return replace(self, steps=steps, mask_steps=mask_steps) if steps >= _FEWEST_STEPS else None


def sent(hits: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The share of the images of all other labels that each label (K,) gets; 0 where there are none."""
    others = [hits[labels != label] == label for label in range(num_classes)]
    return np.array([one.mean() if len(one) else 0.0 for one in others])
