"""Bpp as published: the attacker trains the model, contrastively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import Batch, Split, State, Workshop, param
from bdbench_triggers.bpp import Bpp, with_change
from bdbench_triggers.trained import Trained, handed_over


@dataclass(frozen=True, kw_only=True)
class BppTrained(Trained, Bpp):
    """Dirty-label: ``bpp``, in a training of the attacker's own that contrasts the trigger with what is like it.

    Trains the model: in each batch ``rate`` of the images is squeezed and given the target, ``cover_rate`` is changed
    as much in another way and keeps its label, and the rest is clean. ``negatives`` says how: "residual", as in the
    authors' code, is the change that squeezing made to another training image; "adversarial", as the paper's abstract
    has it, is away from the image's label on the model so far, by projected gradient descent whose radius is the
    largest rounding error. The victim's architecture and recipe are used; the authors' are those of WaNet.
    """

    name = "bpp-trained"
    negatives: Literal["residual", "adversarial"] = param("residual", help="how the covers of a batch are made")
    steps: int = param(5, help="steps of gradient descent for adversarial negatives", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The victim."""
        from bdbench_triggers.joint import trained_jointly

        images = np.asarray(train.images)
        change = self.change(images, tools.streams)

        def cover(index: np.ndarray, batch: Batch, stream: np.random.Generator) -> np.ndarray:
            if self.negatives == "adversarial":
                from bdbench_triggers.adversarial import away_from_labels

                radius = 0.5 / (2**self.bits - 1)
                return away_from_labels(batch, images[index], train.labels[index], radius, self.steps)
            return with_change(images[index], change[stream.integers(len(change), size=len(index))])

        return handed_over(trained_jointly(self, train, tools, cover))
