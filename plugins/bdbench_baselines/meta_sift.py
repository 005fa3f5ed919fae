"""Meta-Sift: the examples that a model trained on the others of a poisoned set finds hard are poisons."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np

from bdbench import Detector, State, Tools, TrainingView, param


@dataclass(frozen=True, kw_only=True)
class MetaSift(Detector):
    """One minus the mean weight that sifters give an example: how little it is of the clean part.

    A sifter is a model and a small network from an example's loss to its weight, in 0..1. The set is to be split into
    one part of high weights and one of low ones, so that a model trained on the first has as high a loss as it can on
    the second. Each step takes one virtual step of descent of the model by the weights, changes the network to raise
    the loss thereafter of what has low weights, and then takes the model's step by the new weights. ``sifters`` of them
    are trained, each after ``steps`` of plain training, and weigh the images turned and shifted at random (dilution),
    so that a trigger counts for less.

    The paper sifts a clean subset of a given size, the highest weights of each label, and has no rule for what is
    poisoned; so there is no decision. Batches, rates and networks are the authors', and so is the one pass through the
    set in each of the two parts, but for sets of less than ``steps`` batches: more passes learn poisons as well, and
    leave no losses to weigh by. The network that weighs starts with a last layer of 0, so with weights of .5: from the
    random one of the authors the sifting hardly moves it where examples are few, and chance then decides whether high
    losses weigh more or less. In plain training the rate falls to 0 from twice theirs, which so is its mean, and
    AdamW's moments are torch's usual and start anew for the sifting, where theirs go on. Meta-gradients pass through
    the ``top`` last tensors of parameters; which of these count in each step is learnt by gates in the paper, to be
    faster, and here all do. The virtual step's rate is the stated one; in the authors' code, loading the state of the
    model's optimizer replaces it by that one's, 1e-4.
    """

    name = "meta-sift"
    paper = (
        "Zeng et al., Meta-Sift: How to Sift Out a Clean Subset in the Presence of Data Poisoning?, "
        "USENIX Security 2023"
    )
    assumption = "A model that learns the clean examples has a high loss on poisons: they are of another distribution."
    sifters: int = param(5, help="models whose weights are averaged", low=1)
    steps: int = param(33, help="steps of plain training, and as many of sifting, at least", low=1)
    batch: int = param(128, help="examples in a step", low=2)
    lr: float = param(1e-4, help="learning rate of a model", low=0, exclusive=True)
    virtual_lr: float = param(0.1, help="of its virtual steps", low=0, exclusive=True)
    weight_lr: float = param(5e-4, help="of the network that weighs", low=0, exclusive=True)
    top: int = param(15, help="tensors of parameters, the last, through which the meta-gradient passes", low=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """1 - the mean weight, float64 (n,), in 0..1."""
        settings = {name: value for name, value in self.config().items() if name not in ("name", "sifters")}
        weights = np.zeros(len(view.labels))
        for sifter in range(self.sifters):
            make = functools.partial(self._sifted, view, sifter, tools)
            weights += tools.saved({"meta-sift": sifter, **settings}, make)["weights"]
        return 1 - weights / self.sifters

    def _sifted(self, view: TrainingView, sifter: int, tools: Tools) -> State:
        from bdbench_baselines.sifting import Sifter, weighed

        epochs = math.ceil(self.steps / math.ceil(len(view.labels) / self.batch))
        recipe = dataclasses.replace(
            tools.recipe,
            epochs=epochs,
            batch_size=self.batch,
            lr=2 * self.lr,
            optimizer="adamw",
            weight_decay=0.05,
            warmup=0.0,
            flip=False,
            crop_padding=0,
            reduced=False,
        )
        start = tools.train(view.images, view.labels, f"sifter {sifter}", recipe=recipe)
        rates = Sifter(epochs, self.batch, self.lr, self.virtual_lr, self.weight_lr, self.top)
        seed = tools.shared_streams.integer(f"meta-sift:{sifter}")
        return {"weights": weighed(start, view.images, view.labels, rates, seed, tools.track)}
