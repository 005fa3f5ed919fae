"""The trigger inversion of BTI-DBF: what a model needs for its task is kept, and a generator moves the rest."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from bdbench_inspection.generating import Parts, batches, generator, images_of, pixels, unit

# The authors' settings: the rates of Adam, the weight of benign features, the bound on them, the noise when trying.
_MASK_LR, _GENERATOR_LR, _BENIGN, _FEATURE_BOUND, _NOISE = 1e-2, 1e-3, 0.01, 5.0, 0.03
_SHOWN = 8


def invert(
    model: Parts,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    device: str,
    *,
    mask_steps: int,
    steps: int,
    batch: int,
    bound: float,
    width: int,
) -> dict[str, np.ndarray]:
    """Where a generator sends images once it may change all but the features that the task needs.

    "hits": int64 (n,), the labels of the images as it changes them; "mask": float32 (d,), in 0..1, what the task needs;
    "clean" and "made": some of the images, uint8 (m, H, W, C), before and after. ``seed`` draws everything.
    """
    made_by = generator(images.shape[3], width, seed, device)
    chance = torch.Generator().manual_seed(seed)
    x = pixels(images, device)
    y = torch.from_numpy(labels.copy()).to(device)
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in x.split(1024)])
    mask = _mask(model.head, features, y, mask_steps, batch, chance)
    optimizer = torch.optim.Adam(made_by.parameters(), lr=_GENERATOR_LR)
    for part in batches(len(x), steps, batch, chance):
        made = made_by(x[part])
        moved = model.features(made)
        benign = mse_loss(mask * moved, mask * features[part])
        other = mse_loss((1 - mask) * moved, (1 - mask) * features[part])
        change = mse_loss(made / model.std, x[part] / model.std)
        far = change > bound or benign > _FEATURE_BOUND
        optimizer.zero_grad()
        (change if far else _BENIGN * benign - other).backward()
        optimizer.step()
    noise = torch.randn(x.shape, generator=chance).to(device) * _NOISE
    with torch.inference_mode():
        made = torch.cat([made_by(part) for part in (x + noise * model.std).split(1024)])
        hits = torch.cat([model.head(model.features(part)).argmax(1) for part in made.split(1024)])
    shown = images_of(made[:_SHOWN])
    return {"hits": hits.cpu().numpy(), "mask": mask.cpu().numpy(), "clean": images[:_SHOWN], "made": shown}


def _mask(
    head: nn.Linear, features: torch.Tensor, labels: torch.Tensor, steps: int, batch: int, chance: torch.Generator
) -> torch.Tensor:
    """The share of each feature, (d,), with which the head finds the label, and without which it does not."""
    free = torch.randn(features.shape[1], generator=chance).to(features.device).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=_MASK_LR)
    for part in batches(len(features), steps, batch, chance):
        mask, own = unit(free), features[part]
        loss = cross_entropy(head(mask * own), labels[part]) - cross_entropy(head((1 - mask) * own), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return unit(free.detach())
