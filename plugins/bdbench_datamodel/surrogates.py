"""Small networks that are trained by the hundred: every parameter has a leading axis for the model.

Shapes: M models, b examples a step, n examples in all, C classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bdbench_datamodel.options import PATCH, STRIDE, patches_of

Parameters = Sequence[torch.Tensor]


class Scratch:
    """Memory that every step of a training uses again: on a CPU fresh pages cost as much as what fills them.

    What a name was given for is overwritten when it is asked for again, so that a step's backward pass has to end
    before the next step begins.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}
        self._copies: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Unwritten memory of this shape, of the type and on the device of ``like``."""
        size, key = math.prod(shape), (name, like.dtype, like.device)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = like.new_empty(size)
        return self._held[key][:size].view(shape)

    def copy(self, name: str, constant: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """``constant`` in the type and on the device of ``like``, brought there once: a GPU would wait at each step."""
        key = (name, like.dtype, like.device)
        if key not in self._copies:
            self._copies[key] = constant.to(like)
        return self._copies[key]


class BatchedNetwork(ABC):
    """M networks of one shape, of ``hidden`` units each, that compute as batched matrix products."""

    hidden: int

    @abstractmethod
    def prepare(self, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
        """uint8 (n, H, W, C) -> normalised float32 (n, ...) on the device, as ``logits`` takes them."""

    @abstractmethod
    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """The parameters of one model, without the leading axis."""

    @abstractmethod
    def logits(self, parameters: Parameters, x: torch.Tensor, scratch: Scratch | None = None) -> torch.Tensor:
        """float (M, b, ...), each model's own examples, -> (M, b, C); ``scratch``: where steps follow one another."""

    @abstractmethod
    def floats_per_example(self) -> int:
        """How many numbers one example of one model keeps in memory in a step, roughly."""


def _dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(M, b, i), (M, i, o), (M, 1, o) -> (M, b, o), in the precision of x."""
    return torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))


def _normal(shape: tuple[int, ...], gain: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * (gain / shape[0]) ** 0.5


def _whitened(patches: torch.Tensor, floor: float = 1e-2) -> torch.Tensor:
    """(n, p, d) rotated and scaled so that its components are uncorrelated and of unit variance, then a one.

    One layer cannot do this for itself, and neighbouring pixels are so alike that without it the steps
    that fine detail needs diverge along the common brightness. ``floor`` is a share of the mean variance.
    """
    flat = patches.flatten(0, 1)
    mean = flat.mean(0)
    covariance = (flat.T @ flat).double() / len(flat) - torch.outer(mean, mean).double()
    # Small, and on the CPU for its signs: another library's axes are other networks.
    variances, axes = torch.linalg.eigh(covariance.cpu())
    scale = (variances.clamp_min(0) + floor * variances.mean()).rsqrt()
    turned = (axes * scale).float().to(flat.device)
    # The ones come out of the same product, as the constant part of a last column.
    constant = torch.cat([-mean @ turned, torch.ones(1, device=flat.device)])
    whitened = torch.addmm(constant, flat, torch.nn.functional.pad(turned, (0, 1)))
    return whitened.view(*patches.shape[:2], -1)


class BatchedMLP(BatchedNetwork):
    """One hidden layer of rectified units on the pixels."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, hidden: int) -> None:
        self.inputs, self.hidden, self.num_classes = int(np.prod(shape)), hidden, num_classes

    def prepare(self, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
        """(n, H W C), with the set's mean and deviation taken out."""
        x = torch.from_numpy(images.reshape(len(images), -1)).to(device).float()
        return (x - x.mean()) / x.std().clamp_min(1e-6)

    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """He initialisation."""
        return [
            _normal((self.inputs, self.hidden), 2.0, generator),
            torch.zeros(1, self.hidden),
            _normal((self.hidden, self.num_classes), 1.0, generator),
            torch.zeros(1, self.num_classes),
        ]

    def logits(self, parameters: Parameters, x: torch.Tensor, scratch: Scratch | None = None) -> torch.Tensor:
        """(M, b, inputs) -> (M, b, C)."""
        w1, b1, w2, b2 = parameters
        return _dense(_dense(x, w1, b1).relu_(), w2, b2).float()

    def floats_per_example(self) -> int:
        """The input, and the hidden layer with its gradient."""
        return self.inputs + 2 * self.hidden


class _PooledUnits(torch.autograd.Function):
    """Rectified units of (M, b * cells, i) by (M, i, o), averaged by ``pooling`` (g, cells) to (M * b, g, o).

    What torch would do by itself, but that the units and their gradient, by far the largest tensors of a step, have
    their places in ``scratch`` and are rectified there. The gradient of x is nobody's concern.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, pooling: torch.Tensor, scratch: Scratch
    ) -> torch.Tensor:
        shape = (*x.shape[:2], weight.shape[2])
        units = torch.bmm(x, weight, out=scratch("units", shape, x)).relu_()
        ctx.save_for_backward(x, units)
        ctx.pooling, ctx.scratch = pooling, scratch
        return _pooled(units, pooling)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, units = ctx.saved_tensors
        each = ctx.pooling.T.expand(len(gradient), -1, -1)
        back = ctx.scratch("gradient", units.shape, units)
        torch.bmm(each, gradient, out=back.view(len(gradient), -1, units.shape[2]))
        torch.ops.aten.threshold_backward.grad_input(back, units, 0, grad_input=back)
        return None, torch.bmm(x.transpose(1, 2), back), None, None


def _pooled(units: torch.Tensor, pooling: torch.Tensor) -> torch.Tensor:
    """(M, b * cells, o), (g, cells) -> (M * b, g, o)."""
    each = units.view(-1, pooling.shape[1], units.shape[2])
    return torch.bmm(pooling.expand(len(each), -1, -1), each)


class BatchedPatchNet(BatchedNetwork):
    """One convolution, as a matrix product over patches; rectified, averaged over a grid, then linear.

    The images are padded at their far ends, so that every pixel lies in a patch: a trigger in a corner
    must not be out of sight. Every patch ends in a one, whose weights are the units' biases.
    """

    patch, stride, grid = PATCH, STRIDE, 3

    def __init__(self, shape: tuple[int, int, int], num_classes: int, hidden: int) -> None:
        self.hidden, self.num_classes = hidden, num_classes
        self.inputs = self.patch**2 * shape[2]
        self.rows, self.columns = map(patches_of, shape[:2])
        # Adaptive average pooling as a matrix (grid * grid, rows * columns): its backward pass is four times as fast
        # as torch's own on the CPU.
        each = torch.eye(self.rows * self.columns).view(-1, self.rows, self.columns)
        self._pooling = torch.nn.functional.adaptive_avg_pool2d(each, self.grid).flatten(1).T

    def prepare(self, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
        """(n, rows * columns, patch * patch * C + 1), whitened, and the one."""
        return _whitened(self.patches(images, device))

    def patches(self, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
        """(n, rows * columns, patch * patch * C), normalised per channel; every pixel lies in one."""
        x = torch.from_numpy(images).to(device).float().permute(0, 3, 1, 2)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
        height, width = ((count - 1) * self.stride + self.patch for count in (self.rows, self.columns))
        x = torch.nn.functional.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
        x = x.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)
        return x.permute(0, 2, 3, 1, 4, 5).reshape(len(images), self.rows * self.columns, self.inputs)

    def initial(self, generator: torch.Generator) -> list[torch.Tensor]:
        """He initialisation."""
        return [
            torch.cat([_normal((self.inputs, self.hidden), 2.0, generator), torch.zeros(1, self.hidden)]),
            _normal((self.grid**2 * self.hidden, self.num_classes), 1.0, generator),
            torch.zeros(1, self.num_classes),
        ]

    def logits(self, parameters: Parameters, x: torch.Tensor, scratch: Scratch | None = None) -> torch.Tensor:
        """(M, b, rows * columns, inputs + 1) -> (M, b, C)."""
        w1, w2, b2 = parameters
        models, batch = x.shape[:2]
        flat = x.flatten(1, 2)
        if scratch is None:
            pooled = _pooled(torch.bmm(flat, w1.to(x.dtype)).relu_(), self._pooling.to(x))
        else:
            pooling = scratch.copy("pooling", self._pooling, x)
            pooled = _PooledUnits.apply(flat, w1.to(x.dtype), pooling, scratch)
        return _dense(pooled.view(models, batch, -1), w2, b2).float()

    def floats_per_example(self) -> int:
        """The patches, and the hidden layer with its gradient."""
        return self.rows * self.columns * (self.inputs + 2 * self.hidden)
