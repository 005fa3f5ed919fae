"""One model: the recipe's loop, its features and its predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bdbench.errors import BdbenchError
from bdbench.progress import Track, quiet
from bdbench.recipe import Recipe

_BATCH = 1024
# Passes over fewer images end before a bar could be read.
_QUIET = 4096


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
    return name


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
        """(n, num_classes)."""
        return self._run(images, self.network)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The penultimate representation, (n, d)."""
        return self._run(images, self.network.features)  # type: ignore[arg-type]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The predicted labels, int64 (n,)."""
        return self.logits(images).argmax(1).astype(np.int64)

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
            for start in range(0, len(images), _BATCH):
                x = torch.from_numpy(np.array(images[start : start + _BATCH])).to(self.device)
                out.append(function(_prepare(x, self.mean, self.std, self.channels_last)).float().cpu())
                advance(len(x))
        return torch.cat(out).numpy()


@dataclass(frozen=True)
class Trainer:
    """Trains networks of one architecture by one recipe. It knows no data set, so a defense may hold it.

    build: makes an untrained network; track: starts a progress bar of so many steps under a label.
    """

    build: Callable[[], torch.nn.Module]
    recipe: Recipe
    device: str
    track: Track

    def train(self, images: np.ndarray, labels: np.ndarray, seed: int, label: str = "train") -> Victim:
        """Train one network from ``seed``; the global random state is left as it was.

        images: uint8 (n, H, W, C); labels: int64 (n,). Batch order and augmentation are drawn on the CPU, so
        that they are the same on every device.
        """
        recipe, device = self.recipe, self.device
        devices = [torch.device(device)] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            network = _place(self.build(), device, recipe.channels_last)
        generator = torch.Generator().manual_seed(seed)
        pixels = images.reshape(-1, images.shape[-1]) / np.float32(255)
        mean = pixels.mean(0, dtype=np.float64).astype(np.float32)
        std = np.maximum(pixels.std(0, dtype=np.float64), 1e-3).astype(np.float32)

        x_all = torch.from_numpy(images.copy()).to(device)
        y_all = torch.from_numpy(labels.copy()).to(device)
        n = len(labels)
        batch = min(recipe.batch_size, n)
        # A last batch of one example has no batch statistics; it is left for the next epoch's shuffle.
        starts = [s for s in range(0, n, batch) if n - s > 1 or n == 1]
        optimizer = _optimizer(network, recipe)
        steps = recipe.epochs * len(starts)
        advance = self.track(steps, label)
        network.train()
        step = 0
        for _ in range(recipe.epochs):
            order = torch.randperm(n, generator=generator)
            for start in starts:
                index = order[start : start + batch].to(device)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * _ramp(step, steps, recipe.warmup)
                x = _prepare(_augment(x_all[index], recipe, generator), mean, std, recipe.channels_last)
                with _autocast(device, recipe.precision):
                    loss = F.cross_entropy(network(x), y_all[index], label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                advance(1)
        if not all(torch.isfinite(t).all() for t in network.state_dict().values()):
            raise BdbenchError(f"training diverged at lr={recipe.lr:g}: weights are not finite; expected a smaller lr")
        return self._victim(network, mean, std)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Victim:
        """The model that ``Victim.arrays`` described."""
        prefix = "state."
        state = {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        with torch.random.fork_rng(devices=[]):
            network = self.build()
        network.load_state_dict(state)
        network = _place(network, self.device, self.recipe.channels_last)
        return self._victim(network, arrays["mean"], arrays["std"])

    def _victim(self, network: torch.nn.Module, mean: np.ndarray, std: np.ndarray) -> Victim:
        recipe = self.recipe
        network.eval()
        return Victim(network, mean, std, self.device, recipe.precision, recipe.channels_last, self.track)


def _ramp(step: int, steps: int, warmup: float) -> float:
    """Linear from 0 to 1 over the first ``warmup`` of the steps, then linear to 0; in (0, 1]."""
    done = (step + 1) / (steps + 1)
    return min(done / warmup if warmup else 1.0, (1 - done) / (1 - warmup))


def _optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    # Decay of normalisation scales and biases only fights the layers they belong to.
    decayed = [p for p in network.parameters() if p.ndim > 1]
    kept = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.lr)


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


def _augment(x: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Random flips and crops of uint8 (b, H, W, C), drawn for each image."""
    b, height, width, _ = x.shape
    if recipe.flip:
        flip = torch.rand(b, generator=generator) < 0.5
        x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(2), x)
    if recipe.crop_padding:
        pad = recipe.crop_padding
        dy, dx = (torch.randint(-pad, pad + 1, (b, 1), generator=generator).to(x.device) for _ in "yx")
        rows = _reflect(torch.arange(height, device=x.device) + dy, height)
        columns = _reflect(torch.arange(width, device=x.device) + dx, width)
        x = x[torch.arange(b, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return x


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)
