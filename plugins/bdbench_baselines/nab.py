"""NAB: a backdoor of the defender's own, whose stamp takes suspected examples back to their class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, RobustTraining, Tools, TrainingView, param
from bdbench_baselines.abl import local_ascent, lowest_loss

if TYPE_CHECKING:
    import torch

    from bdbench import Victim

# Of the epochs; 20 of the paper's 100.
_ISOLATE = 0.2


@dataclass(frozen=True, kw_only=True)
class NonAdversarialBackdoor(RobustTraining):
    """Trains on all examples, the suspected ones with a stamp and a pseudo-label; inputs get the stamp as well.

    Suspected (sec. 3.2) is the ``isolation`` share of lowest loss after local gradient ascent, as ABL isolates. Their
    pseudo-label is by default that of the nearest centre (NC): the class whose unsuspected examples have the nearest
    mean among features that SimCLR learns, as DBD's does. ``oracle=true`` asks a network trained on clean examples
    instead (VD, the authors' default). Where the pseudo-label is the label there is no stamp. The stamp is a patch of
    the mean colour in the top left corner, which comes after the recipe's augmentation, as in the authors' code;
    their Cutout of 3 pixels does not. ``filter=true`` refuses an input of which the stamp changes the label (sec. 3.4).
    """

    name = "nab"
    paper = "Liu, Sangiovanni-Vincentelli and Yue, Beating Backdoor Attack at Its Own Game, ICCV 2023"
    assumption = (
        "Poisons are learnt faster than the rest, so that some can be told; and a trigger with the stamp is for all "
        "inputs what it was for these."
    )
    gamma: float = param(0.5, help="the loss around which isolation keeps what is not learnt at once", low=0)
    isolation: float = param(0.05, help="share of the examples that is suspected", low=0, high=1, exclusive=True)
    stamp: int = param(2, help="side of the stamp, in pixels", low=1)
    filter: bool = param(False, help="refuse inputs whose label the stamp changes")
    pretraining: int = param(100, help="epochs of SimCLR, for the nearest centre", low=1)
    oracle: bool = param(False, help="pseudo-labels by a network trained on clean examples", oracle="clean_set")
    clean: int | None = param(None, help="oracle=true: clean examples to use (none: all that are set apart)", low=1)

    def train(self, view: TrainingView, tools: Tools) -> Stamped:
        """The trained model behind the stamp. Raises BdbenchError if there are not as many clean examples."""
        import torch
        from torch.nn.functional import cross_entropy

        answers = self._isolating(view, tools).logits(view.images)
        suspected = lowest_loss(answers, view.labels, self.isolation, tools.streams)
        labels = np.where(suspected, self._pseudo_labels(view, suspected, tools), view.labels)
        marked = torch.from_numpy(labels != view.labels).to(tools.device)

        def loss(batch: Batch) -> torch.Tensor:
            x = batch.x.clone()
            # 0 is the mean of normalised pixels.
            x[marked[batch.index], :, : self.stamp, : self.stamp] = 0
            return cross_entropy(batch.network(x), batch.labels, label_smoothing=tools.recipe.label_smoothing)

        known = {"nab": self.stamp, "marked": np.flatnonzero(labels != view.labels).tolist()}
        return Stamped(tools.train(view.images, labels, "train", loss=loss, kept=known), self.stamp, self.filter)

    def _isolating(self, view: TrainingView, tools: Tools) -> Victim:
        def loss(batch: Batch) -> torch.Tensor:
            from torch.nn.functional import cross_entropy

            return local_ascent(cross_entropy(batch.network(batch.x), batch.labels), self.gamma)

        epochs = max(1, round(_ISOLATE * tools.recipe.epochs))
        early = dataclasses.replace(tools.recipe, epochs=epochs, flip=False, crop_padding=0)
        return tools.train(view.images, view.labels, "isolate", recipe=early, loss=loss, kept={"ascent": self.gamma})

    def _pseudo_labels(self, view: TrainingView, suspected: np.ndarray, tools: Tools) -> np.ndarray:
        if self.oracle:
            clean = tools.clean_examples(self.clean)
            recipe = dataclasses.replace(tools.recipe, epochs=100)
            model = tools.train(np.asarray(clean.images), clean.labels, "clean", recipe=recipe)
            return model.predict(stamped(view.images, model.mean, self.stamp))
        from bdbench_baselines.contrast import pretrained

        features = pretrained(view, tools, epochs=self.pretraining, temperature=0.5).features(view.images)
        return nearest_centre(features, view.labels, ~suspected)


@dataclass(frozen=True)
class Stamped:
    """A model that sees all inputs with the stamp of side ``size``; filter: it refuses those that this relabels."""

    victim: Victim
    size: int
    filter: bool

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The labels of uint8 (n, H, W, C), int64 (n,); -1: refused."""
        labels = self.victim.predict(stamped(images, self.victim.mean, self.size))
        return np.where(labels == self.victim.predict(images), labels, -1) if self.filter else labels


def stamped(images: np.ndarray, mean: np.ndarray, size: int) -> np.ndarray:
    """Copies of uint8 (n, H, W, C) with the mean colour, (C,) in 0..1, in ``size`` x ``size`` pixels of the corner."""
    made = images.copy()
    made[:, :size, :size] = np.rint(255 * mean).astype(np.uint8)
    return made


def nearest_centre(features: np.ndarray, labels: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """The label (n,) whose trusted examples, bool (n,), have the nearest mean of features (n, d)."""
    from scipy.spatial.distance import cdist

    known = np.unique(labels[trusted])
    centres = np.stack([features[trusted & (labels == label)].mean(0) for label in known])
    return known[cdist(features, centres).argmin(1)]
