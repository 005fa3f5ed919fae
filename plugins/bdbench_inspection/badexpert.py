"""BaDExpert: a model that unlearnt its task still knows the trigger."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import InputDetector, State, Tools, param

if TYPE_CHECKING:
    from bdbench import Victim

# An epoch of the authors' 2,000 clean images, in batches of 128.
_UNLEARN = 16
_TRAINED_ON = 0.8
_LEAST = 1e-8


@dataclass(frozen=True, kw_only=True)
class BaDExpert(InputDetector):
    """What an expert of the backdoor says for the victim's label, against what a model without the backdoor says.

    The expert B is the victim, trained on clean examples under the next label (Algorithm 1 of the paper) by Adam, no
    longer than until it errs on all but ``accuracy`` of them; the auxiliary model M' is the victim fine-tuned on them.
    With their probabilities p for the victim's label, the score is minus min(p_M' / (alpha p_B), (1 - p_B) / (alpha -
    p_M')), the second only where p_M' < alpha: a backdoor is where B is sure and M' is not (sec. 3.3).

    The clean examples that it trains on say nothing of the score from which on an input is suspicious: unless told how
    many to take it takes four fifths of them, and the others are left for that. The authors take it, and all their
    rates, over the images that the victim is right about.

    The authors' learning rates and, whatever the size of the clean set, their numbers of steps are the defaults.
    Unlearning may take ``patience`` times as many: a small network with large weights hardly changes in 16. Their code
    looks at the test set for when to stop; here the clean examples themselves are asked.
    """

    name = "badexpert"
    paper = "Xie et al., BaDExpert: Extracting Backdoor Functionality for Accurate Backdoor Input Detection, ICLR 2024"
    assumption = "Training on wrong labels for clean examples ends the task long before the backdoor."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to train on (none: four fifths of those set apart)", low=1)
    lr: float = param(1e-4, help="Adam's learning rate for unlearning", low=0, exclusive=True)
    accuracy: float = param(0.2, help="accuracy on the clean examples at which unlearning ends", low=0, high=1)
    patience: int = param(20, help="most steps of unlearning / the authors' 16", low=1)
    steps: int = param(320, help="steps of fine-tuning in batches of 64: the authors' ten epochs", low=1)
    tune: float = param(1.0, help="peak learning rate of fine-tuning / the recipe's", low=0, exclusive=True)
    alpha: float = param(0.5, help="probability of M' below which a label is in doubt", low=0, high=1, exclusive=True)

    def fit(self, tools: Tools) -> State:
        """The weights of both models."""
        there = len(tools.oracle("clean_set").labels)
        clean = tools.clean_examples(self.clean or math.ceil(_TRAINED_ON * there))
        images = np.asarray(clean.images)
        expert = tools.saved(
            {"badexpert": "expert", **{k: getattr(self, k) for k in ("clean", "lr", "accuracy", "patience")}},
            lambda: self._unlearnt(images, clean.labels, tools).arrays(),
        )
        epochs = math.ceil(self.steps / math.ceil(len(images) / 64))
        recipe = dataclasses.replace(tools.recipe, epochs=epochs, batch_size=64, lr=self.tune * tools.recipe.lr)
        tuned = tools.train(images, clean.labels, "fine-tune", start=tools.victim, recipe=recipe)
        return {f"{name}.{k}": v for name, of in (("B", expert), ("M", tuned.arrays())) for k, v in of.items()}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """Minus the paper's score, float64 (m,)."""
        from scipy.special import softmax

        labels, each = tools.victim.predict(images), np.arange(len(images))
        found = []
        for name in "BM":
            model = tools.restore({k[2:]: v for k, v in state.items() if k.startswith(f"{name}.")})
            found.append(softmax(model.logits(images).astype(np.float64), axis=1)[each, labels])
        return -doubt(found[0], found[1], self.alpha)

    def _unlearnt(self, images: np.ndarray, labels: np.ndarray, tools: Tools) -> Victim:
        """The victim once it gives most clean examples another label. No augmentation."""
        import torch
        from torch.nn.functional import cross_entropy

        generator = torch.Generator().manual_seed(tools.shared_streams.integer("badexpert"))
        expert = tools.victim.replace(copy.deepcopy(tools.victim.network))
        model = expert.module()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
        x = torch.from_numpy(images.copy()).to(tools.device).permute(0, 3, 1, 2).float() / 255
        wrong = torch.from_numpy((labels + 1) % tools.num_classes).to(tools.device)
        # Parts of one size: of a single example there are no batch statistics.
        parts, done, most = math.ceil(len(x) / 128), 0, self.patience * _UNLEARN
        advance = tools.track(most, "unlearn")
        while done < most and np.mean(expert.predict(images) == labels) > self.accuracy:
            model.train()
            for part in torch.randperm(len(x), generator=generator).to(tools.device).tensor_split(parts):
                optimizer.zero_grad()
                cross_entropy(model(x[part]), wrong[part]).backward()
                optimizer.step()
                done += 1
                advance(1)
        tools.count_models(1)
        return expert


def doubt(expert: np.ndarray, tuned: np.ndarray, alpha: float) -> np.ndarray:
    """The paper's score, low for a backdoor, of the probabilities (m,) that B and M' give to the victim's label."""
    first = tuned / np.maximum(alpha * expert, _LEAST)
    doubted = tuned < alpha
    second = np.where(doubted, (1 - expert) / np.maximum(alpha - tuned, _LEAST), np.inf)
    return np.minimum(first, second)
