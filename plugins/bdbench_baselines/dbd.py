"""DBD: features are learnt without labels, and labels that do not fit them are not believed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench import RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class DecouplingBasedDefense(RobustTraining):
    """Learns features by SimCLR, a last layer on them by symmetric cross-entropy, and then all of it by MixMatch.

    Sec. 4.2 to 4.4. For the third stage the ``labelled`` share of the examples keeps its labels, those of lowest loss;
    they are chosen anew before each epoch. A batch of the recipe's size is split into the two kinds, where the authors
    draw one of each: 1,024 times 64 of either in each of 190 epochs, which is 2.5 passes through CIFAR-10 for each
    epoch of the 200 that plain training has there; so here MixMatch has 2.5 times the recipe's epochs. SimCLR has the
    100 of the paper whatever the recipe, since small sets give it few steps, by the recipe's optimizer and rates; and
    the last layer its 10, on features that stay. Adam's rate in the last two stages is the paper's .002 at its peak: it
    rises, and falls to 0, as the recipe's (twice that, the paper's in the mean, costs a fifth of the accuracy on
    digits). In MixMatch images are moved by ``views.Views.weak``, not by the recipe. The authors keep the epoch of the
    best test accuracy; here it is the last.
    """

    name = "dbd"
    paper = "Huang et al., Backdoor Defense via Decoupling the Training Process, ICLR 2022"
    assumption = (
        "Without labels a poison's features are those of its true class, so that the target label fits them worse than "
        "a clean example's label fits its own."
    )
    pretraining: int = param(100, help="epochs of SimCLR", low=1)
    finetuning: float = param(2.5, help="epochs of MixMatch / the recipe's", low=0, exclusive=True)
    labelled: float = param(0.5, help="share of the examples that keeps its labels", low=0, high=1, exclusive=True)
    temperature: float = param(0.5, help="of SimCLR's softmax", low=0, exclusive=True)
    unlabelled: float = param(15.0, help="weight of the loss of the others, in the end", low=0)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model, of the victim's architecture."""
        from bdbench_baselines.contrast import headed, pretrained, views_of
        from bdbench_baselines.mixmatch import MixMatch, symmetric

        features = pretrained(view, tools, epochs=self.pretraining, temperature=self.temperature)
        first = headed(
            features,
            view.images,
            view.labels,
            tools,
            lambda logits, batch: symmetric(logits, batch.labels).mean(),
            epochs=10,
            lr=2e-3,
            known={"dbd": "head"},
        )
        recipe = dataclasses.replace(
            tools.recipe,
            epochs=max(1, round(self.finetuning * tools.recipe.epochs)),
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.0,
            flip=False,
            crop_padding=0,
        )
        loss = MixMatch(view, views_of(tools), self.labelled, self.unlabelled, recipe.epochs, tools.streams)
        known = {"dbd": self.config(), "flip": tools.recipe.flip}
        return tools.train(view.images, view.labels, "mixmatch", start=first, recipe=recipe, loss=loss, kept=known)
