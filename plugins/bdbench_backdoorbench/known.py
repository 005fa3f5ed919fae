"""What BackdoorBench calls things, and the facts of its set-up that its files do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CleanSet:
    """A data set there. name: what it is called here; shape: (H, W, C); mean, std: the normalisation, of 0..1."""

    name: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalisation(self) -> dict[str, np.ndarray]:
        """mean and std as a Victim holds them, float32 (C,)."""
        return {"mean": np.array(self.mean, np.float32), "std": np.array(self.std, np.float32)}

    def victim(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights by their names there, as the arrays of a Victim of this set's images.

        Their networks take three channels, whatever the images have: of grey ones, three equal channels, which are one
        channel with the sum of the three weights.
        """
        weights = {f"state.{name}": value for name, value in state.items()}
        kernel = state.get(FIRST)
        if kernel is not None and kernel.ndim == 4 and (kernel.shape[1], self.shape[2]) == (3, 1):
            weights[f"state.{FIRST}"] = kernel.sum(1, dtype=np.float64, keepdims=True).astype(kernel.dtype)
        return weights | self.normalisation()


CLEAN_SETS = {
    "cifar10": CleanSet("cifar10", 10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": CleanSet("cifar100", 100, (32, 32, 3), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gtsrb": CleanSet("gtsrb-full", 43, (32, 32, 3), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "mnist": CleanSet("mnist", 10, (28, 28, 1), (0.5,), (0.5,)),
    "tiny": CleanSet("tiny-imagenet", 200, (64, 64, 3), (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}

# The convolution that sees the image.
FIRST = "conv1.weight"

# Our PreAct-ResNet-18 has the parameter names and order of theirs.
MODELS = {"preactresnet18": "preact-resnet18"}
