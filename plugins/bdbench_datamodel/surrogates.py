"""Small networks that are trained by the hundred: every parameter has a leading axis for the model.

Shapes: M models, b examples a step, n examples in all, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

Parameters = Sequence[torch.Tensor]


class BatchedNetwork(ABC):
    """M networks of one shape, of ``hidden`` units each, that compute as batched matrix products."""

    hidden: int

    @abstractmethod
    def prepare(self, images: np.ndarray) -> torch.Tensor:
        """uint8 (n, H, W, C) -> normalised float32 (n, ...) as ``logits`` takes them."""

    @abstractmethod
    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """The parameters of one model, without the leading axis."""

    @abstractmethod
    def logits(self, parameters: Parameters, x: torch.Tensor) -> torch.Tensor:
        """float (M, b, ...), each model's own examples, -> (M, b, C)."""

    @abstractmethod
    def floats_per_example(self) -> int:
        """How many numbers one example of one model keeps in memory in a step, roughly."""


def _dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(M, b, i), (M, i, o), (M, 1, o) -> (M, b, o), in the precision of x."""
    return torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))


def _normal(shape: tuple[int, ...], gain: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * (gain / shape[0]) ** 0.5


def _whitened(patches: torch.Tensor, floor: float = 1e-2) -> torch.Tensor:
    """(n, p, d) rotated and scaled so that its components are uncorrelated and of unit variance.

    One layer cannot do this for itself, and neighbouring pixels are so alike that without it the steps
    that fine detail needs diverge along the common brightness. ``floor`` is a share of the mean variance.
    """
    flat = patches.flatten(0, 1)
    mean = flat.mean(0)
    covariance = (flat.T @ flat).double() / len(flat) - torch.outer(mean, mean).double()
    variances, axes = torch.linalg.eigh(covariance)
    scale = (variances.clamp_min(0) + floor * variances.mean()).rsqrt()
    return (patches - mean) @ (axes * scale).float()


class BatchedMLP(BatchedNetwork):
    """One hidden layer of rectified units on the pixels."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, hidden: int) -> None:
        self.inputs, self.hidden, self.num_classes = int(np.prod(shape)), hidden, num_classes

    def prepare(self, images: np.ndarray) -> torch.Tensor:
        """(n, H W C), with the set's mean and deviation taken out."""
        x = torch.from_numpy(images.reshape(len(images), -1)).float()
        return (x - x.mean()) / x.std().clamp_min(1e-6)

    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """He initialisation."""
        return [
            _normal((self.inputs, self.hidden), 2.0, generator),
            torch.zeros(1, self.hidden),
            _normal((self.hidden, self.num_classes), 1.0, generator),
            torch.zeros(1, self.num_classes),
        ]

    def logits(self, parameters: Parameters, x: torch.Tensor) -> torch.Tensor:
        """(M, b, inputs) -> (M, b, C)."""
        w1, b1, w2, b2 = parameters
        return _dense(_dense(x, w1, b1).relu_(), w2, b2).float()

    def floats_per_example(self) -> int:
        """The input, and the hidden layer with its gradient."""
        return self.inputs + 2 * self.hidden


class BatchedPatchNet(BatchedNetwork):
    """One convolution, as a matrix product over patches; rectified, averaged over a grid, then linear.

    The images are padded at their far ends, so that every pixel lies in a patch: a trigger in a corner
    must not be out of sight.
    """

    patch, stride, grid = 5, 3, 3

    def __init__(self, shape: tuple[int, int, int], num_classes: int, hidden: int) -> None:
        self.hidden, self.num_classes = hidden, num_classes
        self.inputs = self.patch**2 * shape[2]
        self.rows, self.columns = (-(-(side - self.patch) // self.stride) + 1 for side in shape[:2])
        # Adaptive average pooling as a matrix (grid * grid, rows * columns): its backward pass is four times as fast
        # as torch's own on the CPU.
        each = torch.eye(self.rows * self.columns).view(-1, self.rows, self.columns)
        self._pooling = torch.nn.functional.adaptive_avg_pool2d(each, self.grid).flatten(1).T

    def prepare(self, images: np.ndarray) -> torch.Tensor:
        """(n, rows * columns, patch * patch * C), whitened."""
        return _whitened(self.patches(images))

    def patches(self, images: np.ndarray) -> torch.Tensor:
        """(n, rows * columns, patch * patch * C), normalised per channel; every pixel lies in one."""
        x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
        height, width = ((count - 1) * self.stride + self.patch for count in (self.rows, self.columns))
        x = torch.nn.functional.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
        x = x.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)
        return x.permute(0, 2, 3, 1, 4, 5).reshape(len(images), self.rows * self.columns, self.inputs)

    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """He initialisation."""
        return [
            _normal((self.inputs, self.hidden), 2.0, generator),
            torch.zeros(1, self.hidden),
            _normal((self.grid**2 * self.hidden, self.num_classes), 1.0, generator),
            torch.zeros(1, self.num_classes),
        ]

    def logits(self, parameters: Parameters, x: torch.Tensor) -> torch.Tensor:
        """(M, b, rows * columns, inputs) -> (M, b, C)."""
        w1, b1, w2, b2 = parameters
        models, batch = x.shape[:2]
        active = _dense(x.flatten(1, 2), w1, b1).relu_().view(models * batch, -1, self.hidden)
        pooling = self._pooling.to(x).expand(models * batch, -1, -1)
        return _dense((pooling @ active).view(models, batch, -1), w2, b2).float()

    def floats_per_example(self) -> int:
        """The patches, and the hidden layer with its gradient."""
        return self.rows * self.columns * (self.inputs + 2 * self.hidden)
