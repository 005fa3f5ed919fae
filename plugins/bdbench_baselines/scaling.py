"""What mask-aware scaled prediction consistency computes: whether a model stands by its answer as pixels grow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

_AT_ONCE = 512
# The authors' SGD.
_MOMENTUM, _DECAY = 0.9, 5e-4


def pixels(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (b, H, W, C) as float (b, C, H, W) in 0..1."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def scaled(x: torch.Tensor, mask: torch.Tensor, shift: float, scale: int) -> torch.Tensor:
    """scale (x - shift) mask, cut off at 0 and 1."""
    return (scale * (x - shift) * mask).clamp(0, 1)


def consistency(
    model: nn.Module, images: np.ndarray, mask: np.ndarray, device: str, shift: float, scales: Sequence[int]
) -> dict[str, np.ndarray]:
    """Whether a model gives an image the answer that it gives to what it is scaled to, each float64 (n,).

    "agreement": the share of scales at which it does less the share at which not, -1..1; "confidence": the mean
    probability at the scales of the answer to the image itself.

    images: uint8 (n, H, W, C); mask: (H, W) in 0..1.
    """
    shown, agreement, confidence = torch.from_numpy(mask).to(device).float(), [], []
    with torch.inference_mode():
        for start in range(0, len(images), _AT_ONCE):
            x = pixels(images[start : start + _AT_ONCE], device)
            said = model(x).argmax(1, keepdim=True)
            answers = torch.stack([model(scaled(x, shown, shift, scale)) for scale in scales])
            same = (answers.argmax(2) == said[:, 0]).double().mean(0)
            sure = answers.double().softmax(2).mean(0).gather(1, said)[:, 0]
            agreement.append((2 * same - 1).cpu().numpy())
            confidence.append(sure.cpu().numpy())
    return {"agreement": np.concatenate(agreement), "confidence": np.concatenate(confidence)}


def better_mask(
    model: nn.Module,
    images: np.ndarray,
    mask: np.ndarray,
    seed: int,
    device: str,
    *,
    share: float,
    steps: int,
    batch: int,
    lr: float,
    sparsity: float,
    shift: float,
    scales: Sequence[int],
) -> dict[str, np.ndarray]:
    """A smaller mask: "mask", float32 (H, W) in 0..1, what some steps of SGD make of the one before.

    They descend ``share`` times the mean over images and scales of KL(f(x), f(scaled x)) + sparsity |mask|, the lower
    level of the paper's two; the mask is cut off at 0 and 1 after each. images: uint8 (m, H, W, C), m > 0, suspects, of
    which each step draws ``batch``, and which are that share of all examples: the others have no weight there, and are
    not computed.
    """
    rng = np.random.default_rng(seed)
    shown = torch.from_numpy(np.array(mask)).to(device).float().requires_grad_(True)
    optimizer = torch.optim.SGD([shown], lr=lr, momentum=_MOMENTUM, weight_decay=_DECAY)
    for _ in range(steps):
        x = pixels(images[rng.permutation(len(images))[:batch]], device)
        with torch.no_grad():
            said = log_softmax(model(x), 1)
        optimizer.zero_grad()
        (sparsity * shown.abs().sum()).backward()
        for scale in scales:
            answer = log_softmax(model(scaled(x, shown, shift, scale)), 1)
            (share / len(scales) * kl_div(answer, said, reduction="batchmean", log_target=True)).backward()
        optimizer.step()
        with torch.no_grad():
            shown.clamp_(0, 1)
    return {"mask": shown.detach().cpu().numpy()}
