"""The two offsets of ASSET, and the outlyingness that says on what the outer one ascends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, mse_loss

from bdbench import Batch, Victim

_HIDDEN, _AT_ONCE, _SIDE = 128, 1024, 2
# The width of the authors' features.
_WIDTH = 8192


@dataclass(frozen=True)
class InnerOffset:
    """How the most poisonous are found: steps and their rate, and the adjusted outlyingness above which they are."""

    steps: int
    lr: float
    outlying: float


class Offset:
    """The loss of a step: the variance of the logits of clean images, less the cross-entropy of the most poisonous.

    images: of all training examples, and clean: of the clean ones, both uint8 (n, H, W, C).
    """

    def __init__(self, victim: Victim, images: np.ndarray, clean: np.ndarray, inner: InnerOffset) -> None:
        self._victim, self._images, self._clean, self._inner = victim, images, clean, inner

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The difference; without two that are poisonous enough, the variance alone."""
        device = batch.x.device
        clean = self._clean[torch.randint(len(self._clean), (len(batch.labels),)).numpy()]
        offset = batch.network(batch.prepare(torch.from_numpy(clean))).var(1).mean()
        part = self._images[batch.index.cpu().numpy()]
        with torch.autocast(device.type, enabled=False):
            answers = inner_offset(maps(self._victim, part), maps(self._victim, clean), self._inner)
        # On the other side are those that are taken for clean examples.
        outlying = (adjusted_outlyingness(answers) > self._inner.outlying) & (answers > np.median(answers))
        suspects = torch.from_numpy(np.flatnonzero(outlying)).to(device)
        if len(suspects) < 2:
            return offset
        # In a pass of their own, as the authors: the statistics of the batch are those of the suspects.
        return offset - cross_entropy(batch.network(batch.x[suspects]), batch.labels[suspects])


def maps(victim: Victim, images: np.ndarray) -> torch.Tensor:
    """The last feature maps of a model, of at most 2 x 2, as float (n, d); its features if it has no maps.

    Of the part with a convolution or batch norm that ends last, a block with its skip connection or a stage; a network
    with a single convolution has no feature maps.
    """
    network = victim.network
    layers = {m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
    if len(layers) < 2:
        return torch.from_numpy(victim.features(images)).to(victim.device)
    last: dict[str, torch.Tensor] = {}

    def see(module: nn.Module, given: object, out: object) -> None:
        if torch.is_tensor(out) and out.ndim == 4:
            last["out"] = out

    parts = [m for m in network.modules() if layers.intersection(m.modules())]
    hooks = [part.register_forward_hook(see) for part in parts]
    found = []
    try:
        for start in range(0, len(images), _AT_ONCE):
            victim.logits(images[start : start + _AT_ONCE])
            # What is made under inference mode cannot be trained on.
            found.append(_small(last["out"].float().relu()).flatten(1).clone())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found)


def _small(x: torch.Tensor) -> torch.Tensor:
    return adaptive_avg_pool2d(x, (min(_SIDE, x.shape[2]), min(_SIDE, x.shape[3])))


def inner_offset(features: torch.Tensor, clean: torch.Tensor, inner: InnerOffset) -> np.ndarray:
    """What a new network, taught 1 for ``features`` (b, d) and 0 for ``clean`` (m, d), says of the first, (b,).

    The rate is for 8,192 features, as the authors have; what a step of Adam changes of the answers grows as d does.
    """
    width = features.shape[1]
    lr = inner.lr * _WIDTH / width
    layers = [nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)]
    network = nn.Sequential(*layers, nn.Sigmoid(), nn.Flatten(0)).to(features.device)
    ways = [(features, 1.0), (clean, 0.0)]
    optimizers = [torch.optim.Adam(network.parameters(), lr=lr) for _ in ways]
    for _ in range(inner.steps):
        for (part, answer), optimizer in zip(ways, optimizers, strict=True):
            said = network(part)
            optimizer.zero_grad()
            mse_loss(said, torch.full_like(said, answer)).backward()
            optimizer.step()
    with torch.no_grad():
        return network(features).double().cpu().numpy()


def adjusted_outlyingness(values: np.ndarray) -> np.ndarray:
    """How far each of (n,) is from the median, over how far the whisker on its side of the adjusted boxplot is.

    Hubert and Van der Veeken 2008, whiskers as of Hubert and Vandervieren 2008, not cut off at the data. 0 at the
    median; infinite if there is no whisker.
    """
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    skew = medcouple(values)
    down, up = (-4.0, 3.0) if skew > 0 else (-3.0, 4.0)
    below = middle - lower + 1.5 * np.exp(down * skew) * (upper - lower)
    above = upper - middle + 1.5 * np.exp(up * skew) * (upper - lower)
    distance, whisker = np.abs(values - middle), np.where(values > middle, above, below)
    found = np.full(len(values), np.inf)
    np.divide(distance, whisker, out=found, where=whisker > 0)
    return np.where(distance == 0, 0.0, found)


def medcouple(values: np.ndarray) -> float:
    """The skewness of Brys, Hubert and Struyf 2004, in -1..1: that of a mean of all pairs around the median, (n,)."""
    z = np.sort(values - np.median(values))[::-1]
    upper, lower = z[z >= 0][:, None], z[z <= 0][None]
    span = upper - lower
    pairs = np.divide(upper + lower, span, out=np.zeros_like(span), where=span > 0)
    ties = int((z == 0).sum())
    # Pairs of values at the median: as many above it as below.
    place = np.arange(ties)
    pairs[len(upper) - ties :, :ties] = np.sign(ties - 1 - place[:, None] - place[None])
    return float(np.median(pairs))
