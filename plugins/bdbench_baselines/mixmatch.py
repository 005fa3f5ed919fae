"""MixMatch for DBD: learning from some labels, and from what the network says itself where there is none."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bdbench import Batch, Streams, TrainingView
from bdbench_baselines.views import Views

# The authors' and MixMatch's: weights of both halves of the symmetric loss, log 0, sharpening, Beta(a, a).
_CE, _RCE, _LOG_ZERO, _SHARPER, _BETA = 0.1, 1.0, float(np.log(1e-4)), 0.5, 0.75
_AT_ONCE = 1024


def symmetric(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy (b,): .1 CE(label, p) + CE(p, label), with log 0 = log 1e-4 (Wang et al. 2019)."""
    logits = logits.float()
    own = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return _CE * F.cross_entropy(logits, labels, reduction="none") - _RCE * _LOG_ZERO * (1 - own)


class MixMatch:
    """The loss of a batch of ``view``, all of whose examples are trained on.

    labelled: the share of all examples that counts as labelled, those of lowest symmetric loss at the start of the
    epoch, ties by chance; weight: of the others' loss at the end of ``epochs``, from 0 at their start.
    """

    def __init__(
        self, view: TrainingView, views: Views, labelled: float, weight: float, epochs: int, streams: Streams
    ) -> None:
        self._view, self._views, self._weight, self._epochs = view, views, weight, epochs
        self._count = min(max(1, round(labelled * len(view.labels))), len(view.labels))
        self._chance = streams("ties").permutation(len(view.labels))
        self._epoch, self._seen = -1, 0
        self._labelled = torch.zeros(0, dtype=torch.bool)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the labelled + weight x squared error of the others, on mixed images (Berthelot et al.)."""
        if batch.epoch != self._epoch:
            self._epoch, self._seen, self._labelled = batch.epoch, 0, self._lowest(batch)
        done = (batch.epoch + self._seen / len(self._view.labels)) / self._epochs
        self._seen += len(batch.index)
        chosen = self._labelled[batch.index]
        x, others = batch.x[chosen], batch.x[~chosen]
        seen = [self._views.weak(others) for _ in range(2)]
        classes = self._view.num_classes
        with torch.no_grad():
            guess = guessed([batch.network(v) for v in seen]) if len(others) else batch.x.new_zeros(0, classes)
        targets = torch.cat([F.one_hot(batch.labels[chosen], classes).to(guess), guess, guess])
        mixed, targets = mixed_up(torch.cat([self._views.weak(x), *seen]), targets)
        logits = batch.network(mixed).float()
        count, zero = len(x), logits.sum() * 0
        supervised = F.cross_entropy(logits[:count], targets[:count]) if count else zero
        consistent = F.mse_loss(logits[count:].softmax(1), targets[count:]) if len(others) else zero
        return supervised + self._weight * done * consistent

    def _lowest(self, batch: Batch) -> torch.Tensor:
        losses = self._losses(batch)
        lowest = np.lexsort((self._chance, losses))[: self._count]
        found = torch.zeros(len(losses), dtype=torch.bool)
        found[lowest] = True
        return found.to(batch.x.device)

    def _losses(self, batch: Batch) -> np.ndarray:
        network: nn.Module = batch.network
        device, found = batch.x.device, []
        network.eval()
        with torch.no_grad():
            for start in range(0, len(self._view.labels), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                x = self._views.normalised(torch.from_numpy(self._view.images[part].copy()).to(device))
                labels = torch.from_numpy(self._view.labels[part].copy()).to(device)
                found.append(symmetric(network(x), labels).cpu())
        network.train()
        return torch.cat(found).numpy()


def guessed(logits: list[torch.Tensor]) -> torch.Tensor:
    """The mean of the answers to several views, sharpened: p^2 / sum p^2."""
    p = torch.stack([one.float().softmax(1) for one in logits]).mean(0) ** (1 / _SHARPER)
    return p / p.sum(1, keepdim=True)


def mixed_up(x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (b, C, H, W) and targets (b, K), each with a share of another one that is at most half."""
    drawn = float(torch.distributions.Beta(_BETA, _BETA).sample())
    kept, other = max(drawn, 1 - drawn), torch.randperm(len(x)).to(x.device)
    return kept * x + (1 - kept) * x[other], kept * targets + (1 - kept) * targets[other]
