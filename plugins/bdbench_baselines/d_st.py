"""D-ST: what is taken for clean teaches by its labels, all the rest by its images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import Batch, RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class SecureTraining(RobustTraining):
    """Learns features by semi-supervised contrast, then a last layer from what was told apart by FCT (sec. 4.2).

    ``clean`` and ``poisoned`` are alpha_c and alpha_p: the shares of the examples of lowest and of highest feature
    consistency towards transformations (``sensitivity``), whose model has the paper's 2 epochs and then as many steps
    as 10 epochs of 50,000 images. In the contrast an example taken for clean has all others of its label for
    positives, as in the authors' code, or, with ``positives=clean``, those that are taken for clean as well; any other
    example has but its own other view. The last layer is trained on cross-entropy of the clean minus .001 of that of
    the poisoned. The contrast has 100 epochs, half of the paper's, whatever the recipe, since small sets give it few
    steps, by the recipe's optimizer and rates; the last layer has the paper's 10, by AdamW at .01 where the authors
    have SGD at 5, with the recipe's augmentation. The authors keep the epoch of the best test accuracy; here it is the
    last.
    """

    name = "d-st"
    paper = "Chen, Wu and Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022"
    assumption = "The features of poisons change more than those of clean examples when the image is turned and moved."
    early: int = param(2, help="epochs in which the backdoor is learnt, for FCT", low=1)
    spread: int = param(3900, help="steps that spread the centres of the classes, for FCT", low=1)
    clean: float = param(0.2, help="share of the examples taken for clean", low=0, high=0.5, exclusive=True)
    poisoned: float = param(0.05, help="share of the examples taken for poisoned", low=0, high=0.5, exclusive=True)
    contrast: int = param(100, help="epochs of the contrast", low=1)
    positives: Literal["label", "clean"] = param("label", help="of a clean example: all of its label, or clean ones")
    temperature: float = param(0.1, help="of the contrast's softmax", low=0, exclusive=True)
    unlearning: float = param(0.001, help="weight of the poisoned in the last layer's loss", low=0)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model, of the victim's architecture."""
        import torch
        from torch.nn.functional import cross_entropy

        from bdbench_baselines.contrast import headed, pretrained
        from bdbench_baselines.sensitivity import told_apart

        split = told_apart(view, tools, self.early, self.spread, self.clean, self.poisoned)
        trusted = torch.from_numpy(split.clean).to(tools.device)

        def alike(batch: Batch) -> torch.Tensor:
            rows = trusted[batch.index]
            same = (batch.labels[:, None] == batch.labels) & rows[:, None]
            return same & rows if self.positives == "clean" else same

        known = {"d-st": self.config(), "clean": np.flatnonzero(split.clean).tolist()}
        features = pretrained(
            view, tools, epochs=self.contrast, temperature=self.temperature, blur=False, alike=alike, known=known
        )
        used = split.clean | split.poisoned
        poisoned = torch.from_numpy(split.poisoned[used]).to(tools.device)

        def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
            bad = poisoned[batch.index]
            each = cross_entropy(logits.float(), batch.labels, reduction="none")
            means = [(each * of).sum() / of.sum().clamp(min=1) for of in (~bad, bad)]
            return means[0] - self.unlearning * means[1]

        known["poisoned"] = np.flatnonzero(split.poisoned).tolist()
        return headed(features, view.images[used], view.labels[used], tools, loss, epochs=10, lr=0.01, known=known)
