"""Fine-tuning: the victim is trained on with clean examples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import BdbenchError, Mitigation, Split, Tools, param

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
        reserve: Split = tools.oracle("clean_set")
        if self.clean is not None and self.clean > len(reserve.labels):
            raise BdbenchError(
                f"defense 'fine-tuning': clean={self.clean} is not allowed: expected at most the {len(reserve.labels)} "
                "examples that are set apart"
            )
        return tools.train(
            np.asarray(reserve.images)[: self.clean],
            reserve.labels[: self.clean],
            "fine-tuning",
            start=tools.victim,
            recipe=dataclasses.replace(tools.recipe, epochs=self.epochs, lr=self.lr * tools.recipe.lr),
        )
