"""The search of FeatureRE: a generator and a few features that together send images to a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss

from bdbench_inspection.generating import Parts, batches, generator, images_of, pixels, unit

# The authors' settings: the rates of Adam and its momentum, the share of images that has to obey, and the weights of
# likeness to the label's own features, of what is beyond a bound, and of change while warming up.
_LR, _MASK_LR, _BETAS, _OBEYED = 1e-3, 1e-1, (0.5, 0.9), 0.9
_LIKENESS, _BEYOND, _WARM_CHANGE = 5.0, 10.0, 100.0
_SHOWN = 2


@dataclass(frozen=True)
class Bounds:
    """What a trigger may cost. change: mean square, of normalised pixels; spread: deviation of a masked feature over
    images, in the mean; size: sum of the mask (eq. 4's taus).
    """

    change: float
    spread: float
    size: float


@dataclass(frozen=True)
class Pass:
    """The means of one pass over the images: cosine with the label's own features, share that obeys, and costs."""

    likeness: float
    obeyed: float
    change: float
    spread: float
    size: float

    def value(self, bounds: Bounds) -> float:
        """The authors' mixed value: -1 where all obey, by features unlike the label's own and within the bounds."""
        costs = [(self.change, bounds.change), (self.spread, bounds.spread), (self.size, bounds.size)]
        return self.likeness - self.obeyed + sum(beyond(cost, bound) for cost, bound in costs)


def beyond(cost: float, bound: float) -> float:
    """By how much of the bound a cost is above it; 0 below."""
    return max(cost - bound, 0.0) / bound


@dataclass(frozen=True)
class Target:
    """What the search for a label is about: images (n, C, H, W) of other labels; features (m, d), of all clean images;
    own: the mean of those of the label (d,).
    """

    label: int
    images: torch.Tensor
    features: torch.Tensor
    own: torch.Tensor


def search(
    model: Parts,
    images: np.ndarray,
    labels: np.ndarray,
    seeds: Sequence[int],
    device: str,
    label: int,
    *,
    warm_up: int,
    passes: int,
    batch: int,
    width: int,
    bounds: Bounds,
) -> dict[str, np.ndarray]:
    """The best trigger found for ``label`` with clean images, uint8 (n, H, W, C), and their labels.

    "value": the least mixed value of a pass; "obeyed" and "likeness": that pass's; "mask": float32 (d,), in 0..1;
    "clean" and "made": some images of other labels, uint8, before and after the generator, as it ended.
    """
    target = _target(model, images, labels, label, device)
    x = target.images
    made_by = generator(images.shape[3], width, seeds[label], device)
    chance = torch.Generator().manual_seed(seeds[label])
    free = torch.ones(target.features.shape[1], device=device, requires_grad=True)
    adams = (
        torch.optim.Adam(made_by.parameters(), lr=_LR, betas=_BETAS),
        torch.optim.Adam([free], lr=_MASK_LR, betas=_BETAS),
    )
    hunt = _Hunt(model, target, bounds, chance, made_by, free, adams)
    per_pass = -(-len(x) // batch)
    for part in batches(len(x), warm_up * per_pass, batch, chance):
        hunt.warm(x[part])
    best, value, mask = None, float("inf"), free.detach()
    for _ in range(passes):
        told = hunt.step(batches(len(x), per_pass, batch, chance))
        if told.value(bounds) < value:
            best, value, mask = told, told.value(bounds), unit(free.detach())
    assert best is not None
    with torch.inference_mode():
        shown = made_by(x[:_SHOWN])
    return {
        "value": np.array(value),
        "obeyed": np.array(best.obeyed),
        "likeness": np.array(best.likeness),
        "mask": mask.cpu().numpy(),
        "clean": images_of(x[:_SHOWN]),
        "made": images_of(shown),
    }


def _target(model: Parts, images: np.ndarray, labels: np.ndarray, label: int, device: str) -> Target:
    everything = pixels(images, device)
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in everything.split(1024)])
    own = torch.from_numpy(labels == label).to(device)
    mean = features[own].mean(0) if own.any() else torch.zeros_like(features[0])
    return Target(label, everything[~own], features, mean)


@dataclass
class _Hunt:
    """The search at work; ``excess`` are by how much the last pass missed the bounds, which weighs in the next."""

    model: Parts
    target: Target
    bounds: Bounds
    chance: torch.Generator
    made_by: torch.nn.Module
    free: torch.Tensor
    adams: tuple[torch.optim.Adam, torch.optim.Adam]
    excess: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def warm(self, x: torch.Tensor) -> None:
        """A step of the generator alone, without the mask."""
        made = self.made_by(x)
        change = self._change(made, x)
        loss = self._obeys(self.model.head(self.model.features(made)))
        _descend(self.adams[0], loss + _WARM_CHANGE * change if change > self.bounds.change else loss)

    def step(self, parts: Sequence[torch.Tensor]) -> Pass:
        """A pass: of each batch a step of the generator under the mask, and one of the mask."""
        told = []
        for part in parts:
            x = self.target.images[part]
            told.append(self._generate(x))
            self._narrow(x)
        mean = Pass(*np.mean([list(vars(one).values()) for one in told], 0).tolist())
        self.excess = (
            beyond(mean.change, self.bounds.change),
            beyond(mean.spread, self.bounds.spread),
            max(_OBEYED - mean.obeyed, 0.0) / _OBEYED,
        )
        return mean

    def _generate(self, x: torch.Tensor) -> Pass:
        mask = unit(self.free.detach())
        made = self.made_by(x)
        features = self.model.features(made)
        logits = self._mixed(features, mask)
        likeness = cosine_similarity(self.target.own, features.mean(0), dim=0)
        change = self._change(made, x)
        # Of one image there is no deviation.
        spread = (features * mask).std(0, correction=min(1, len(x) - 1)).sum() / mask.sum()
        obeyed = (logits.argmax(1) == self.target.label).float().mean()
        loss = _LIKENESS * likeness.clamp(min=0)
        for cost, bound, excess in ((change, self.bounds.change, 0), (spread, self.bounds.spread, 1)):
            if cost > bound:
                loss = loss + _BEYOND * (1 + self.excess[excess]) * cost
        if obeyed < _OBEYED:
            loss = loss + (1 + self.excess[2]) * self._obeys(logits)
        _descend(self.adams[0], loss)
        return Pass(*(float(v.detach()) for v in (likeness, obeyed, change, spread, mask.sum())))

    def _narrow(self, x: torch.Tensor) -> None:
        """A step of the mask: to what sends images to the label, and within its size."""
        with torch.no_grad():
            features = self.model.features(self.made_by(x))
        mask = unit(self.free)
        loss, size = self._obeys(self._mixed(features, mask)), mask.sum()
        _descend(self.adams[1], loss + size if size > self.bounds.size else loss)

    def _mixed(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The logits of what the mask takes of these features, and all else of clean images drawn at random."""
        pool = self.target.features
        drawn = torch.randint(len(pool), (len(features),), generator=self.chance).to(pool.device)
        mixed: torch.Tensor = self.model.head(mask * features + (1 - mask) * pool[drawn])
        return mixed

    def _change(self, made: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return mse_loss(made / self.model.std, x / self.model.std)

    def _obeys(self, logits: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, torch.full((len(logits),), self.target.label, device=logits.device))


def _descend(adam: torch.optim.Adam, loss: torch.Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()
