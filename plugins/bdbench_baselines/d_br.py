"""D-BR: the model unlearns what is taken for poisoned and learns again what is taken for clean, in turn."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class BackdoorRemoval(RobustTraining):
    """Trains the victim on: a turn ascends the loss of the poisoned and then descends that of the clean (sec. 4.3).

    ``clean`` and ``poisoned`` are alpha_c and alpha_p: the shares of the examples of lowest and of highest feature
    consistency towards transformations (``sensitivity``), whose model has the paper's 2 epochs and then as many steps
    as 10 epochs of 50,000 images. The victim is a model trained on the same poisoned set, as the method asks. A batch
    holds both kinds, of which one counts: the poisoned for one epoch of a turn, the clean for as many as there are more
    of them (4), so that both get the share of the steps that batches of one kind give them. It goes as far as the
    authors' by the sum of its learning rates, 20 times 98 steps of a hundredth of the rate before, by the recipe's
    optimizer. They keep the epoch with the best difference of accuracy and success on test data; here it is the last.
    """

    name = "d-br"
    paper = "Chen, Wu and Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022"
    assumption = "The features of poisons change more than those of clean examples when the image is turned and moved."
    early: int = param(2, help="epochs in which the backdoor is learnt, for FCT", low=1)
    spread: int = param(3900, help="steps that spread the centres of the classes, for FCT", low=1)
    clean: float = param(0.2, help="share of the examples taken for clean", low=0, high=0.5, exclusive=True)
    poisoned: float = param(0.05, help="share of the examples taken for poisoned", low=0, high=0.5, exclusive=True)
    turns: int = param(20, help="how often it unlearns and relearns", low=1)
    length: float = param(20.0, help="sum of the learning rates of all steps / the recipe's", low=0, exclusive=True)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model, made of the victim."""
        import torch
        from torch.nn.functional import cross_entropy

        from bdbench_baselines.sensitivity import told_apart

        split = told_apart(view, tools, self.early, self.spread, self.clean, self.poisoned)
        used = split.clean | split.poisoned
        poisoned = torch.from_numpy(split.poisoned[used]).to(tools.device)
        turn = 1 + max(1, round(split.clean.sum() / split.poisoned.sum()))

        def loss(batch: Batch) -> torch.Tensor:
            each = cross_entropy(batch.network(batch.x), batch.labels, reduction="none")
            bad = poisoned[batch.index]
            counts, sign = (bad, -1) if batch.epoch % turn == 0 else (~bad, 1)
            return sign * (each * counts).sum() / counts.sum().clamp(min=1)

        epochs = self.turns * turn
        steps = epochs * math.ceil(used.sum() / tools.recipe.batch_size)
        # A recipe's rate rises from 0 and falls to 0, so that its mean is half of its peak.
        lr = 2 * self.length / steps * tools.recipe.lr
        recipe = dataclasses.replace(tools.recipe, epochs=epochs, lr=lr)
        known = {"d-br": turn, "poisoned": np.flatnonzero(split.poisoned).tolist()}
        images, labels = view.images[used], view.labels[used]
        return tools.train(images, labels, "turns", start=tools.victim, recipe=recipe, loss=loss, kept=known)
