"""Feature consistency towards transformations: the features of a triggered image change when it is turned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import Batch, Detector, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

# The authors' transformations: turned by up to so many degrees, then moved by up to this share of each side.
_DEGREES, _SHARE = 180.0, 0.2


@dataclass(frozen=True, kw_only=True)
class FeatureConsistency(Detector):
    """The mean squared change of an example's features when it is turned at random and moved.

    The sample-distinguishment module of D-BR and D-ST (sec. 3.2 and algorithm 1 of the paper): a model is trained
    without augmentation for a few epochs, then tuned for some more on the intra-class loss of the authors' code alone,
    the mean cosine between the centres of the labels in a batch, so that poisons part from their label's clean
    examples; and the change (eq. 1) is measured on that model. Theirs are 2 and 10 epochs at a constant rate; here they
    are shares of the recipe's, of 20 epochs the same. ``start=victim`` tunes the victim, as others use it. The
    ``poisoned`` share that changes most is flagged (alpha_p), on a clean set as well; their alpha_c, the share that is
    taken for clean, decides nothing here.
    """

    name = "fct"
    paper = "Chen, Wu and Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022"
    assumption = (
        "The model is fitted to the trigger so closely that once an image is turned or moved its features are no "
        "longer those of poisons; those of clean images change less."
    )
    start: Literal["early", "victim"] = param("early", help="what is tuned: a model of a few epochs, or the victim")
    early: float = param(0.1, help="share of the recipe's epochs for that model", low=0, high=1)
    tuned: float = param(0.5, help="share of the recipe's epochs on the intra-class loss (0: none)", low=0)
    poisoned: float = param(0.05, help="share of the examples that is flagged", low=0, high=1)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The mean squared change of a feature, float64 (n,); concludes with the largest."""
        recipe = dataclasses.replace(tools.recipe, flip=False, crop_padding=0)
        model = tools.victim
        if self.start == "early":
            few = dataclasses.replace(recipe, epochs=max(1, round(self.early * recipe.epochs)))
            model = tools.train(view.images, view.labels, "early", recipe=few)
        if more := round(self.tuned * recipe.epochs):
            tuning = dataclasses.replace(recipe, epochs=more)
            kept = {"fct": "intra-class loss"}
            model = tools.train(
                view.images, view.labels, "tune", start=model, recipe=tuning, loss=centre_similarity, kept=kept
            )
        turned = transformed(view.images, tools.streams("transformations"))
        change = model.features(view.images).astype(np.float64) - model.features(turned)
        scores = (change**2).mean(1)
        flagged, chance = np.zeros(len(scores), bool), tools.streams("ties").permutation(len(scores))
        flagged[np.lexsort((chance, -scores))[: round(self.poisoned * len(scores))]] = True
        tools.conclude(flagged=flagged)
        return scores


def centre_similarity(batch: Batch) -> torch.Tensor:
    """The cosines between the mean features of each two labels in a batch, summed, over the labels squared."""
    import torch
    from torch.nn.functional import normalize

    features = batch.network.features(batch.x).float()  # type: ignore[operator]
    codes = torch.unique(batch.labels, return_inverse=True)[1]
    members = torch.nn.functional.one_hot(codes).float()
    centres = normalize(members.T @ features / members.sum(0)[:, None], dim=1)
    cosines = centres @ centres.T
    return (cosines.sum() - cosines.diagonal().sum()) / cosines.numel()


def transformed(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images, uint8 (n, H, W, C), each turned about its centre and moved by whole pixels; what comes in is black."""
    import torch
    from torchvision.transforms.functional import affine

    angles = rng.uniform(-_DEGREES, _DEGREES, len(images))
    moves = np.rint(rng.uniform(-_SHARE, _SHARE, (len(images), 2)) * [images.shape[2], images.shape[1]]).astype(int)
    out = np.empty_like(images)
    for i, (angle, move) in enumerate(zip(angles, moves, strict=True)):
        x = torch.from_numpy(images[i].copy()).permute(2, 0, 1)
        turned = affine(x, float(angle), move.tolist(), scale=1.0, shear=[0.0, 0.0])
        out[i] = turned.permute(1, 2, 0).numpy()
    return out
