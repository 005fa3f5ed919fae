"""WaNet as published: the attacker trains the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Batch, Split, State, Workshop
from bdbench_triggers.trained import Trained, handed_over
from bdbench_triggers.wanet import WaNet


@dataclass(frozen=True, kw_only=True)
class WaNetTrained(Trained, WaNet):
    """Dirty-label: ``wanet``, in a training of the attacker's own.

    Trains the model: in each batch ``rate`` of the images is warped and given the target, ``cover_rate`` is in the
    noise mode, and the rest is clean, drawn anew in every epoch. The victim's architecture and
    recipe are used; the authors' are a pre-activation ResNet-18, SGD from .01 and random rotations. As there, an image
    of the target class may be among the warped. With ``snapshot`` the attack is ``wanet``.
    """

    name = "wanet-trained"

    def craft(self, train: Split, tools: Workshop) -> State:
        """The victim."""
        from bdbench_triggers.joint import trained_jointly

        images = np.asarray(train.images)

        def cover(index: np.ndarray, batch: Batch, stream: np.random.Generator) -> np.ndarray:
            return self.jittered(images[index], tools.streams, stream)

        return handed_over(trained_jointly(self, train, tools, cover))
