"""A ResNet-9 for an ensemble: networks one after another, each step of a training a replayed CUDA graph.

Shapes: n examples, M networks, k examples that each holds, S steps of b examples, images (H, W, C).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdbench_datamodel.ensemble import SurrogateRecipe, held_examples, margins, rivals_of

_HIDDEN, _EPOCHS = 32, 10
# The field's rate for 512 examples; it falls with the batch.
_BATCH, _RATE = 512, 0.5
# A small subset still needs steps: so many an epoch, unless its batches would be too small to take statistics of.
_STEPS, _SMALLEST_BATCH = 48, 32
# Margins: examples at once, on a GPU and on a CPU.
_BLOCK, _CPU_BLOCK = 2500, 250
# What is lost when a run is broken off, against capturing a step anew.
_CHUNK = 25
_WARMUP_STEPS = 3


@dataclass(frozen=True)
class ResNetRecipe(SurrogateRecipe):
    """Of a ResNet-9: labels smoothed, images mirrored (each time by chance) and shifted by up to ``shift`` pixels."""

    smoothing: float = 0.1
    flip: bool = True
    shift: int = 2

    @classmethod
    def of(
        cls, held: int, channels: int, epochs: int | None = None, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> ResNetRecipe:
        """For subsets of ``held`` examples.

        Images are augmented though epochs are few: each is seen ten times or so by a network that could learn it by
        heart in five. A shift of two pixels leaves of a 3 x 3 patch in a corner at least its innermost pixel, and all
        of it in most epochs. Grey images are not mirrored: they are digits and letters more often than photographs.
        """
        batch = min(held, int(np.clip(held // _STEPS, _SMALLEST_BATCH, _BATCH)))
        return cls(
            epochs=epochs or _EPOCHS,
            batch_size=batch,
            lr=_RATE * batch / _BATCH,
            precision=precision,
            flip=channels == 3,
        )


def _block(inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """A convolution, normalised over the batch and rectified."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_block(channels, channels), _block(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class ResNet9(nn.Module):
    """float (b, C, H, W) -> logits (b, classes), of the parameters' precision; H and W of 16 pixels or more.

    That of FFCV's CIFAR example (libffcv/ffcv, examples/cifar), on which Ilyas et al. (2022) and Khaddaj et al. (2023)
    trained theirs, without blurred pooling; its widths are multiples of ``hidden``, there 64.
    """

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(channels, hidden),
            _block(hidden, 2 * hidden, 5, 2, 2),
            _Residual(2 * hidden),
            _block(2 * hidden, 4 * hidden),
            nn.MaxPool2d(2),
            _Residual(4 * hidden),
            _block(4 * hidden, 2 * hidden, padding=0),
        )
        self.head = nn.Linear(2 * hidden, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The last layer's products are not rounded to bfloat16, since margins are differences of its logits."""
        pooled = self.features(x).amax((2, 3)).to(self.head.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return 0.2 * self.head(pooled)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Every parameter and statistic anew, by torch's own initialisation."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()


@dataclass(frozen=True)
class ResNetTrainer:
    """ResNet-9s, each alone, as many steps as its subset has whole batches.

    What a network computes hangs on its subset and seed alone: on a GPU, beyond the rounding of sums whose order is
    not fixed there.
    """

    shape: tuple[int, int, int]
    classes: int
    hidden: int
    recipe: ResNetRecipe
    graph: bool = True
    compiled: bool = False

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        classes: int,
        held: int,
        hidden: int | None = None,
        epochs: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> ResNetTrainer:
        """For images (H, W, C) and subsets of ``held``; None: the defaults."""
        return cls(shape, classes, hidden or _HIDDEN, ResNetRecipe.of(held, shape[2], epochs, precision))

    def prepare(self, images: np.ndarray, device: str = "cpu") -> torch.Tensor:
        """(n, H + 2 shift, W + 2 shift, C), normalised by channel, mirrored at the edges, in the recipe's precision."""
        x = torch.from_numpy(images).to(device).float()
        x = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)).clamp_min(1e-6)
        x = x.to(getattr(torch, self.recipe.precision)).permute(0, 3, 1, 2)
        return F.pad(x, (self.recipe.shift,) * 4, mode="reflect").permute(0, 2, 3, 1).contiguous()

    def margins(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        masks: np.ndarray,
        seed: int | Sequence[int],
        rivals: np.ndarray | None = None,
    ) -> np.ndarray:
        """float32 (M, n): of every example under the network of each of M subsets, as ``ensemble.train_margins``."""
        seeds = [seed] * len(masks) if isinstance(seed, int) else list(seed)
        members = held_examples(masks).to(inputs.device)
        # Fetched from the device at the end: each fetch waits for all that is under way.
        out = torch.empty(masks.shape, device=inputs.device)
        named = None if rivals is None else torch.empty(masks.shape, dtype=torch.int16, device=inputs.device)
        with tuned(inputs.device):
            session = Session(self, inputs, labels, members.shape[1])
            for place, (own, one) in enumerate(zip(members, seeds, strict=True)):
                session.train(own, one)
                session.margins(out[place], None if named is None else named[place])
        if rivals is not None and named is not None:
            rivals[:] = named.cpu().numpy()
        return out.cpu().numpy()

    def chunk(self, device: str) -> int:
        """They are not trained together: as many as are kept at once."""
        return _CHUNK

    def config(self) -> dict[str, Any]:
        """Network, width and recipe."""
        return {"net": ResNet9.__name__, "hidden": self.hidden, "recipe": asdict(self.recipe)}


class Session:
    """One network's memory, used by one training after another, and its step: on a GPU captured once as a graph.

    A graph replays the same kernels on the same addresses. So all that differs from step to step is read on the device
    from tables, at the row that a counter there points to; and all that differs from network to network is written in
    place.
    """

    def __init__(self, trainer: ResNetTrainer, inputs: torch.Tensor, labels: torch.Tensor, held: int) -> None:
        """inputs: from ``trainer.prepare``; labels: int64 (n,), on the same device; held: the size of each subset."""
        self._trainer, self._inputs, self._labels = trainer, inputs, labels
        recipe, device = trainer.recipe, inputs.device
        self.network = ResNet9(trainer.shape[2], trainer.classes, trainer.hidden).to(device)
        self.network.to(memory_format=torch.channels_last)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(self.network) if trainer.compiled else self.network
        )
        self._batch = min(recipe.batch_size, held)
        self._per_epoch = held // self._batch
        self.steps = recipe.epochs * self._per_epoch
        rates = [recipe.rate(step, self.steps) for step in range(1, self.steps + 1)]
        self._rates = torch.tensor(rates, device=device)
        self._order = torch.zeros(self.steps, self._batch, dtype=torch.int64, device=device)
        # For each example of a step: its shift down, its shift to the right, whether it is mirrored.
        self._changes = torch.zeros(self.steps, self._batch, 3, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows, self._columns = (torch.arange(side, device=device) for side in trainer.shape[:2])
        for parameter in self.network.parameters():
            # Of the parameter's own strides, as the fused optimizer needs them.
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=torch.zeros((), device=device),
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._drawn: tuple[int, list[torch.Tensor], torch.Tensor, torch.Tensor] | None = None
        self._replay = self._captured() if trainer.graph and device.type == "cuda" else None

    @property
    def captured(self) -> bool:
        """Whether a step is the replay of a graph."""
        return self._replay is not None

    def train(self, members: torch.Tensor, seed: int) -> None:
        """Train the network anew on the examples ``members``, int64 (held,) on the device."""
        self.network.train()
        self._restart(members, seed)
        step = self._replay or self._step
        for _ in range(self.steps):
            step()

    @torch.no_grad()
    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Of inputs as ``prepare`` makes them, float32 (m, classes)."""
        self.network.eval()
        shift, (height, width, _) = self._trainer.recipe.shift, self._trainer.shape
        block = _CPU_BLOCK if inputs.device.type == "cpu" else _BLOCK
        parts = []
        for part in inputs[:, shift : shift + height, shift : shift + width].split(block):
            with self._precision():
                parts.append(self.network(part.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)))
        return torch.cat(parts)

    def margins(self, out: torch.Tensor, rivals: torch.Tensor | None = None) -> None:
        """Write every example's margin under the network into float32 (n,) on the device, and the most probable of the
        other labels into int16 (n,).
        """
        logits = self.logits(self._inputs)
        out.copy_(margins(logits, self._labels))
        if rivals is not None:
            rivals.copy_(rivals_of(logits, self._labels))

    def _step(self) -> None:
        """Of one batch; nothing here is known to the CPU, nor waits for it."""
        recipe = self._trainer.recipe
        index, changes = self._order.index_select(0, self._at)[0], self._changes.index_select(0, self._at)[0]
        down, right, mirrored = changes.unbind(1)
        rows = self._rows + down[:, None]
        columns = torch.where(mirrored[:, None] > 0, self._columns.flip(0), self._columns) + right[:, None]
        images = self._inputs[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        with self._precision():
            logits = self._forward(images.permute(0, 3, 1, 2))
        loss = F.cross_entropy(logits, self._labels[index], label_smoothing=recipe.smoothing)
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self._optimizer.param_groups[0]["lr"].copy_(self._rates.index_select(0, self._at)[0])
        self._optimizer.step()
        self._at += 1

    def _precision(self) -> torch.autocast:
        # Without autocast's own cache of cast weights: a graph must cast them at each step.
        half = self._trainer.recipe.precision == "bfloat16"
        return torch.autocast(self._inputs.device.type, torch.bfloat16, enabled=half, cache_enabled=False)

    @torch.no_grad()
    def _restart(self, members: torch.Tensor, seed: int) -> None:
        initial, ranks, drawn = self._draws(seed)
        for live, first in zip(self.network.state_dict().values(), initial, strict=True):
            live.copy_(first)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()
        self._at.zero_()
        order = members[ranks[:, members].argsort(1)][:, : self._per_epoch * self._batch]
        self._order.copy_(order.reshape(self._order.shape))
        changes = drawn.gather(1, order[:, :, None].expand(-1, -1, 3))
        self._changes.copy_(changes.reshape(self._changes.shape))

    def _draws(self, seed: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """By chance, on the device: the initial state; all examples' ranks in each epoch, int64 (epochs, n), and their
        changes, int64 (epochs, n, 3). Drawn on the CPU, whose numbers are the same everywhere, and kept for the
        networks that share the seed.
        """
        if self._drawn is None or self._drawn[0] != seed:
            recipe, device, n = self._trainer.recipe, self._inputs.device, len(self._labels)
            generator = torch.Generator().manual_seed(seed)
            network = ResNet9(self._trainer.shape[2], self._trainer.classes, self._trainer.hidden)
            network.draw(generator)
            ranks, changes = [], []
            for _ in range(recipe.epochs):
                ranks.append(torch.randperm(n, generator=generator))
                shifts = torch.randint(2 * recipe.shift + 1, (n, 2), generator=generator)
                mirrored = torch.randint(2, (n, 1), generator=generator) * int(recipe.flip)
                changes.append(torch.cat([shifts, mirrored], 1))
            initial = [value.to(device) for value in network.state_dict().values()]
            self._drawn = seed, initial, torch.stack(ranks).to(device), torch.stack(changes).to(device)
        return self._drawn[1:]

    def _captured(self) -> Callable[[], None] | None:
        """What replays a step, or None, with a warning, where the device cannot capture it."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self._inputs.device)
        try:
            stream.wait_stream(torch.cuda.current_stream(self._inputs.device))
            with torch.cuda.stream(stream):
                # Real steps, for what is chosen and allocated in the first; undone by the next restart.
                for _ in range(_WARMUP_STEPS):
                    self._at.zero_()
                    self._step()
            self._at.zero_()
            torch.cuda.current_stream(self._inputs.device).wait_stream(stream)
            with torch.cuda.graph(graph, stream=stream):
                self._step()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(f"networks are trained without a CUDA graph, and slower: {reason}", stacklevel=2)
            return None
        return graph.replay


@contextlib.contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """On a GPU, convolutions by the fastest algorithm there, found by trying them: every batch has the same shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda" or before
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before
