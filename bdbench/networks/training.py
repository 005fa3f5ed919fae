"""One model: the recipe's loop, its features and its predictions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from bdbench.errors import BdbenchError
from bdbench.host.machine import Precision
from bdbench.networks.recipe import Batch, Loss, Recipe
from bdbench.networks.resuming import Keep, Part, Progressing, pieces
from bdbench.progress import Track, quiet

# Images that are predicted at once: so many, and of larger ones than 64 x 64 x 3 as many as take that many bytes.
_BATCH = 1024
_BATCH_BYTES = _BATCH * 64 * 64 * 3
# Passes over fewer images end before a bar could be read.
_QUIET = 4096

_Move = Callable[[torch.Tensor], torch.Tensor]


def pick_device(name: str) -> str:
    """``auto`` becomes the best device there is. Raises BdbenchError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
        there = (device.index or 0) < available.get(device.type, 0)
    except RuntimeError:
        there = False
    if not there:
        known = ", ".join(["auto", *(d for d, count in available.items() if count)])
        raise BdbenchError(f"device {name!r} is not available: expected one of {known}")
    # There is but one of them, and results are known by its name.
    return device.type if device.type in ("cpu", "mps") else name


@dataclass
class Victim:
    """A trained network with the preprocessing it was trained with.

    mean, std: float32 (C,), of pixels in 0..1. Images go in as uint8 (n, H, W, C); results come out as
    float32 arrays on the host. track: where long passes show a bar.
    """

    network: torch.nn.Module
    mean: np.ndarray
    std: np.ndarray
    device: str
    precision: str = "float32"
    channels_last: bool = False
    track: Track = quiet

    def logits(self, images: np.ndarray) -> np.ndarray:
        """(n, num_classes). Raises BdbenchError where the network gives NaN, of which the largest would be class 0."""
        found = self._run(images, self.network)
        if np.isnan(found).any():
            raise BdbenchError(f"the model gives NaN for {np.isnan(found).any(1).sum()} of {len(found)} images")
        return found

    def features(self, images: np.ndarray) -> np.ndarray:
        """The penultimate representation, (n, d)."""
        return self._run(images, self.network.features)  # type: ignore[arg-type]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The predicted labels, int64 (n,)."""
        return self.logits(images).argmax(1).astype(np.int64)

    def module(self) -> torch.nn.Module:
        """Float (b, C, H, W) in 0..1 -> logits (b, num_classes), differentiable; normalisation is inside."""
        return _Normalised(self.network, self.mean, self.std)

    def replace(self, network: torch.nn.Module) -> Victim:
        """Another network with the same preprocessing; for mitigations."""
        other = copy.copy(self)
        other.network = network.to(self.device)
        return other

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and preprocessing as plain arrays."""
        state = {f"state.{k}": v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        return {**state, "mean": self.mean, "std": self.std}

    def _run(self, images: np.ndarray, function: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        self.network.eval()
        out = []
        advance = self.track(len(images), "predict") if len(images) > _QUIET else quiet(0, "")
        with torch.inference_mode(), _autocast(self.device, self.precision):
            # No images are one empty batch, so that what comes out has its shape.
            size = _at_once(images.shape[1:])
            for start in range(0, max(1, len(images)), size):
                x = torch.from_numpy(np.array(images[start : start + size])).to(self.device)
                out.append(function(_prepare(x, self.mean, self.std, self.channels_last)).float().cpu())
                advance(len(x))
        return torch.cat(out).numpy()


class _Normalised(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.network = network
        device = next(network.parameters()).device
        self._mean = torch.from_numpy(mean).to(device)[:, None, None]
        self._std = torch.from_numpy(std).to(device)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self._mean) / self._std)


@dataclass(frozen=True)
class Trainer:
    """Trains networks of one architecture. It knows no data set, so a defense may hold it.

    build: makes an untrained network; recipe: how, unless another is asked for; precision: in which the machine is
    fastest, for recipes that allow it; track: starts a progress bar of so many steps under a label.
    """

    build: Callable[[], torch.nn.Module]
    recipe: Recipe
    device: str
    track: Track
    precision: Precision = "float32"

    def untrained(self, seed: int) -> torch.nn.Module:
        """A network with weights drawn from ``seed``; the global random state is left as it was."""
        with seeded(seed):
            return self._built().to(self.device)

    def _built(self) -> torch.nn.Module:
        network = self.build()
        if not isinstance(network, torch.nn.Module):
            raise BdbenchError(f"a model builds a network of {type(network).__name__}: expected a torch.nn.Module")
        return network

    def train(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        seed: int,
        label: str = "train",
        *,
        start: Victim | None = None,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        each_epoch: Callable[[int, Victim], None] | None = None,
        keep: Keep | None = None,
    ) -> Victim:
        """Train one network from ``seed``; the global random state is left as it was.

        images: uint8 (n, H, W, C); labels: int64 (n,); keep: where pieces of it are kept (none: nowhere); the rest as
        ``Workshop.train`` has it. Batch order and augmentation are drawn on the CPU, so that they are the same on every
        device. Raises BdbenchError if the weights end up not finite.
        """
        recipe = recipe or self.recipe
        with seeded(seed):
            network = copy.deepcopy(start.network) if start else self._built()
            network = _place(network, self.device, recipe.reduced)
            mean, std = (start.mean, start.std) if start else _moments(images)
            victim = self._victim(network, mean, std, recipe)
            # Dropout draws from the global generator: the loop runs inside, too.
            with _batches_of_one(min(recipe.batch_size, len(labels))):
                loss = loss or _cross_entropy(recipe)
                self._descend(victim, images, labels, seed, label, recipe, loss, each_epoch, keep)
        if not all(torch.isfinite(t).all() for t in network.state_dict().values()):
            raise BdbenchError(f"training diverged at lr={recipe.lr:g}: weights are not finite; expected a smaller lr")
        network.eval()
        return victim

    def _descend(
        self,
        victim: Victim,
        images: np.ndarray,
        labels: np.ndarray,
        seed: int,
        label: str,
        recipe: Recipe,
        loss: Loss,
        each_epoch: Callable[[int, Victim], None] | None,
        keep: Keep | None,
    ) -> None:
        network, device = victim.network, self.device
        generator = torch.Generator().manual_seed(seed)
        x_all = torch.from_numpy(images.copy()).to(device)
        y_all = torch.from_numpy(labels.copy()).to(device)
        n = len(labels)
        batch = min(recipe.batch_size, n)
        # A last batch of one example has no batch statistics; it is left for the next epoch's shuffle.
        starts = [s for s in range(0, n, batch) if n - s > 1 or n == 1]
        optimizer = recipe.optimizer_for(network)
        steps = recipe.epochs * len(starts)
        advance = self.track(steps, label)

        def run(epochs: range) -> None:
            for epoch in epochs:
                network.train()
                order = torch.randperm(n, generator=generator)
                for step, start in enumerate(starts, epoch * len(starts)):
                    index = order[start : start + batch].to(device)
                    for group in optimizer.param_groups:
                        group["lr"] = recipe.rate(step, steps)
                    prepare = functools.partial(_prepared, recipe.augmentation(len(index), generator), victim, recipe)
                    x = prepare(x_all[index])
                    with _autocast(device, victim.precision):
                        value = loss(Batch(network, x, y_all[index], index, epoch, prepare))
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    optimizer.step()
                    advance(1)
                if each_epoch is not None:
                    each_epoch(epoch, victim)

        if keep is None:
            run(range(recipe.epochs))
            return
        parts: dict[str, Part] = {"state": network, "optimizer": optimizer, "generator": generator}
        progressing = Progressing(parts, torch.device(device))
        for epochs in pieces(recipe.epochs):
            if not progressing.reach(epochs.stop, functools.partial(run, epochs), keep):
                advance(len(epochs) * len(starts))

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Victim:
        """The model that ``Victim.arrays`` described."""
        prefix = "state."
        state = {k[len(prefix) :]: torch.tensor(v) for k, v in arrays.items() if k.startswith(prefix)}
        with torch.random.fork_rng(devices=[]):
            network = self._built()
        network.load_state_dict(state)
        network = _place(network, self.device, self.recipe.reduced)
        network.eval()
        # Copies: of a victim that is handed on nothing may be shared.
        return self._victim(network, np.array(arrays["mean"]), np.array(arrays["std"]), self.recipe)

    def _victim(self, network: torch.nn.Module, mean: np.ndarray, std: np.ndarray, recipe: Recipe) -> Victim:
        precision = self.precision if recipe.reduced else "float32"
        return Victim(network, mean, std, self.device, precision, recipe.reduced, self.track)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generators at the start of ``seed``; afterwards as they were."""
    # The seed is set on every card, so the state of every card is put back.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _batches_of_one(size: int) -> Iterator[None]:
    """Say what is wrong where a batch of one image has no statistics."""
    try:
        yield
    except ValueError as error:
        if size > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise BdbenchError(
            "batches of 1 image have no statistics to normalise them by, as this model does on images this small: "
            "expected batch_size >= 2, and 2 or more training images"
        ) from None


def _at_once(shape: tuple[int, ...]) -> int:
    """How many images of a shape (H, W, C) are worked on at once."""
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, math.prod(shape))))


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, float32 (C,), of pixels in 0..1."""
    size, channels = _at_once(images.shape[1:]), images.shape[-1]

    def summed(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # A part at a time: of all at once, floats and their squares are twelve times as large as the set.
        total = np.zeros(channels)
        for start in range(0, len(images), size):
            total += of(images[start : start + size].reshape(-1, channels) / np.float32(255)).sum(0, dtype=np.float64)
        return total

    count = images.size // channels
    mean = summed(lambda pixels: pixels) / count
    variance = summed(lambda pixels: np.square(pixels - mean)) / count
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1e-3).astype(np.float32)


def _cross_entropy(recipe: Recipe) -> Loss:
    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(batch.network(batch.x), batch.labels, label_smoothing=recipe.label_smoothing)

    return loss


def _place(network: torch.nn.Module, device: str, channels_last: bool) -> torch.nn.Module:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return network.to(device).to(memory_format=layout)  # type: ignore[call-overload]


def _autocast(device: str, precision: str) -> torch.autocast:
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16")


def _prepare(x: torch.Tensor, mean: np.ndarray, std: np.ndarray, channels_last: bool) -> torch.Tensor:
    """uint8 (b, H, W, C) -> normalised float32 (b, C, H, W)."""
    shift = torch.from_numpy(mean).to(x.device)
    scale = torch.from_numpy(std).to(x.device)
    x = ((x.float() / 255 - shift) / scale).permute(0, 3, 1, 2)
    return x if channels_last else x.contiguous()


def _prepared(move: _Move, victim: Victim, recipe: Recipe, x: torch.Tensor) -> torch.Tensor:
    """uint8 (b, H, W, C), on any device, as the network is shown them in training."""
    return _prepare(move(x.to(victim.device)), victim.mean, victim.std, recipe.reduced)
