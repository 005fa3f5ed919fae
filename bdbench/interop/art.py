"""The Adversarial Robustness Toolbox (ART): its poison detectors as a defense here, and ours as one there.

ART sees float32 images (n, C, H, W) in 0..1, and takes the last layer of a model for its features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from bdbench.components.defenses import Detector
from bdbench.components.workshop import Oracle
from bdbench.errors import BdbenchError
from bdbench.images.data import TrainingView
from bdbench.networks.training import Victim
from bdbench.scoring import detect, most_suspicious

try:
    from art.defences.detector.poison import (
        ActivationDefence,
        GroundTruthEvaluator,
        PoisonFilteringDefence,
        SpectralSignatureDefense,
    )
    from art.estimators.classification import PyTorchClassifier
    from art.utils import segment_by_class
except ImportError as error:
    raise BdbenchError(f"ART is not usable here: {error}: expected pip install 'bdbench[art]'") from None

_DIMENSIONS = 10

__all__ = ["BdbenchDefence", "activation_scores", "classifier_of", "spectral_scores"]


def classifier_of(victim: Victim, num_classes: int, shape: tuple[int, ...]) -> PyTorchClassifier:
    """A victim as ART's classifier; shape: (H, W, C) of its images. Its last layer is the victim's features."""
    column = (-1, 1, 1)
    return PyTorchClassifier(
        _FeaturesLast(victim.network),
        loss=nn.CrossEntropyLoss(),
        input_shape=(shape[2], *shape[:2]),
        nb_classes=num_classes,
        clip_values=(0.0, 1.0),
        preprocessing=(victim.mean.reshape(column), victim.std.reshape(column)),
        device_type="gpu" if victim.device.startswith("cuda") else "cpu",
    )


def activation_scores(victim: Victim, view: TrainingView, seed: int) -> np.ndarray:
    """1 where ART's ActivationDefence, with its defaults, suspects an example, else 0; float64 (n,).

    Raises BdbenchError for a set with too small a class: ART reduces each to 10 dimensions.
    """
    fewest = int(np.bincount(view.labels, minlength=view.num_classes).min())
    if fewest < _DIMENSIONS:
        raise BdbenchError(
            f"a class has {fewest} examples: ART's activation defence expects {_DIMENSIONS} or more in each"
        )
    with _seeded(seed):
        _, clean = _made(ActivationDefence, victim, view).detect_poison()
    return 1.0 - np.array(clean, np.float64)


def spectral_scores(victim: Victim, view: TrainingView, seed: int) -> np.ndarray:
    """ART's spectral outlier score of each example within its class, float64 (n,)."""
    # It reports the scores of those it suspects: at this rate, of everything.
    defence = _made(SpectralSignatureDefense, victim, view, expected_pp_poison=1.0, eps_multiplier=1.0)
    report, _ = defence.detect_poison()
    return np.array([report[i] for i in range(len(view.labels))], np.float64)


class BdbenchDefence(PoisonFilteringDefence):
    """A detector of bdbench as a poison filter of ART: the most suspicious ``budget`` of the set is called poison.

    classifier: ART's, which is inspected; x_train, y_train: its training set, the labels as integers or one-hot;
    pixels must be 8-bit values scaled to the classifier's clip_values. model: the architecture of what the detector
    trains itself; oracles: what it declares that it needs.
    """

    defence_params: ClassVar[list[str]] = [
        *PoisonFilteringDefence.defence_params,
        *("x_train", "y_train", "defense", "budget", "model", "seed", "oracles"),
    ]

    def __init__(
        self,
        classifier: PyTorchClassifier,
        x_train: np.ndarray,
        y_train: np.ndarray,
        *,
        defense: str | Detector = "spectral",
        budget: float = 0.1,
        model: str = "convnet",
        seed: int = 0,
        oracles: Mapping[Oracle, Any] | None = None,
    ) -> None:
        super().__init__(classifier, x_train, y_train)
        self.defense, self.budget, self.model, self.seed, self.oracles = defense, budget, model, seed, oracles
        self._check_params()

    def detect_poison(self, **kwargs: Any) -> tuple[dict[str, Any], list[int]]:
        """(report, is_clean): the score of each example under "scores", and 1 for what is called clean, else 0."""
        self.set_params(**kwargs)
        pixels = _Pixels(self.classifier)
        scores = detect(
            self.defense,
            pixels.to_uint8(self.x_train),
            self._labels(),
            num_classes=self.classifier.nb_classes,
            model=self.model,
            victim=_ClassifierVictim(self.classifier, pixels),
            seed=self.seed,
            device=str(self.classifier.device),
            oracles=self.oracles,
        )
        clean = np.ones(len(scores), int)
        clean[most_suspicious(scores, self.budget, self.seed)] = 0
        return {"scores": scores}, clean.tolist()

    def evaluate_defence(self, is_clean: np.ndarray, **kwargs: Any) -> str:
        """The confusion matrix of each class as JSON, given the truth: 1 for clean examples, 0 for poisons."""
        _, found = self.detect_poison(**kwargs)
        labels, classes = self._labels(), self.classifier.nb_classes
        by_class = [segment_by_class(np.asarray(x), labels, classes) for x in (found, is_clean)]
        return GroundTruthEvaluator().analyze_correctness(*by_class)[1]

    def _labels(self) -> np.ndarray:
        labels = np.asarray(self.y_train)
        if labels.ndim == 2 and labels.shape[1] == 1:  # a column of integers, not one-hot
            return labels[:, 0]
        return labels.argmax(1) if labels.ndim == 2 else labels

    def _check_params(self) -> None:
        if not 0 < self.budget < 1:
            raise BdbenchError(f"budget={self.budget:g} is not allowed: expected a fraction in (0, 1)")


class _FeaturesLast(nn.Module):
    """A network whose last child, where ART looks for activations, passes its features through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.last = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last(self.network.features(x))  # type: ignore[operator]
        return self.network(x)


class _Pixels:
    """Between ART's arrays and uint8 (n, H, W, C)."""

    def __init__(self, classifier: PyTorchClassifier) -> None:
        clip: Any = (0.0, 1.0) if classifier.clip_values is None else classifier.clip_values
        self.low, self.high = clip
        self.channels_first = classifier.channels_first

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        x = x.transpose(0, 2, 3, 1) if self.channels_first else x
        slack = 1e-3 * (self.high - self.low)  # as resizing leaves
        if not (np.min(x) >= self.low - slack and np.max(x) <= self.high + slack):
            span = f"{np.min(x):g}..{np.max(x):g}"
            raise BdbenchError(f"pixels are {span}: expected them in clip_values, {self.low:g}..{self.high:g}")
        return np.rint((x - self.low) / (self.high - self.low) * 255).clip(0, 255).astype(np.uint8)

    def to_art(self, images: np.ndarray) -> np.ndarray:
        x = (images / 255.0 * (self.high - self.low) + self.low).astype(np.float32)
        return x.transpose(0, 3, 1, 2) if self.channels_first else x


class _ClassifierVictim(Victim):
    """ART's classifier as a victim: logits and last-layer activations come from it."""

    def __init__(self, classifier: PyTorchClassifier, pixels: _Pixels) -> None:
        none = np.zeros(0, np.float32)
        super().__init__(classifier.model, none, none, str(classifier.device))
        self._classifier, self._pixels = classifier, pixels

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What the classifier predicts, (n, num_classes)."""
        return self._classifier.predict(self._pixels.to_art(images))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The activations of the classifier's last layer, (n, d)."""
        layer = len(self._classifier.layer_names) - 1
        activations = self._classifier.get_activations(self._pixels.to_art(images), layer=layer, batch_size=128)
        return activations.reshape(len(images), -1)


def _made(kind: type[Any], victim: Victim, view: TrainingView, **options: Any) -> Any:
    classifier = classifier_of(victim, view.num_classes, view.images.shape[1:])
    return kind(classifier, _Pixels(classifier).to_art(view.images), view.labels, **options)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """ART clusters with numpy's global generator: seeded inside, as it was outside."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
