"""The optimisation of cognitive distillation: the smallest mask under which a model says what it says of the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

# So many images are a piece that is kept; so many pixels are worked on at once.
PIECE, _PIXELS = 1024, 2**19
# The authors': where a mask starts, before the tanh, and how slowly Adam forgets.
_START, _BETAS = 1.0, (0.1, 0.1)


def mask_norms(
    model: nn.Module,
    images: np.ndarray,
    seed: int,
    device: str,
    piece: int,
    *,
    steps: int,
    lr: float,
    sparsity: float,
    smooth: float,
) -> dict[str, np.ndarray]:
    """The L1 norm of the mask of each image of a piece, "norms": float64 (m,).

    images: uint8 (n, H, W, C), of which the piece holds those from ``piece`` times PIECE on. All meet the same sequence
    of colours, so that a norm depends neither on the place of an image nor on those beside it.
    """
    part = images[piece * PIECE : (piece + 1) * PIECE]
    colours = torch.rand(steps, part.shape[3], generator=torch.Generator().manual_seed(seed)).to(device)
    found = []
    for batch in np.array_split(part, max(1, -(-part[..., 0].size // _PIXELS))):
        x = torch.from_numpy(batch.copy()).to(device).permute(0, 3, 1, 2).float() / 255
        found.append(masks(model, x, colours, lr, sparsity, smooth).sum((1, 2, 3)).double().cpu().numpy())
    return {"norms": np.concatenate(found)}


def masks(
    model: nn.Module, x: torch.Tensor, colours: torch.Tensor, lr: float, sparsity: float, smooth: float
) -> torch.Tensor:
    """The mask m of each image, (b, 1, H, W) in 0..1, that Adam finds for eq. (1) of the paper.

    It descends mean |f(x m + (1 - m) colour) - f(x)| + sparsity |m| + smooth TV(m), one colour (C,) a step. f: logits;
    x: (b, C, H, W) in 0..1; TV: the sum of squared differences of neighbours over the number of pixels; m is
    (tanh + 1) / 2 of what is moved.
    """
    with torch.no_grad():
        said = model(x)
    free = torch.full_like(x[:, :1], _START, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=lr, betas=_BETAS)
    for colour in colours:
        m = (free.tanh() + 1) / 2
        apart = (model(x * m + (1 - m) * colour[:, None, None]) - said).abs().mean(1)
        # Summed over images: with a mean, an image's steps would depend on how many there are.
        loss = (apart + sparsity * m.sum((1, 2, 3)) + smooth * variation(m)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (free.detach().tanh() + 1) / 2


def variation(m: torch.Tensor) -> torch.Tensor:
    """The sum of squared differences of neighbouring pixels over the number of pixels, (b,), of masks (b, 1, H, W)."""
    return (m.diff(dim=2).square().sum((1, 2, 3)) + m.diff(dim=3).square().sum((1, 2, 3))) / m[0].numel()
