"""Fine-tuning: the victim is trained on with clean examples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Mitigation, Tools, param

if TYPE_CHECKING:
    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class FineTuning(Mitigation):
    """Trains all weights of the victim on clean examples by its own recipe, with fewer epochs and a smaller rate."""

    name = "fine-tuning"
    paper = "Liu, Xie and Srivastava, Neural Trojans, ICCD 2017; Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018"
    assumption = "What the weights know of the trigger is forgotten once clean examples no longer call for it."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to train on (none: all that are set apart)", low=1)
    epochs: int = param(100, help="passes over them", low=1)
    lr: float = param(1.0, help="peak learning rate / the recipe's", low=0, exclusive=True)

    def repair(self, tools: Tools) -> Victim:
        """The trained model. Raises BdbenchError if there are not as many clean examples."""
        clean = tools.clean_examples(self.clean)
        return tools.train(
            np.asarray(clean.images),
            clean.labels,
            "fine-tuning",
            start=tools.victim,
            recipe=dataclasses.replace(tools.recipe, epochs=self.epochs, lr=self.lr * tools.recipe.lr),
        )
