"""What crafted attacks share: images as tensors, augmentation that gradients pass through, optimisers that go on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from bdbench import Recipe, State


def to_floats(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (n, H, W, C) as float (n, C, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def to_bytes(x: torch.Tensor) -> np.ndarray:
    """Float (n, C, H, W) in 0..1 as uint8 (n, H, W, C), rounded."""
    return (x.detach() * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def augment(x: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Float (b, C, H, W) flipped and cropped at random as the recipe trains; gradients pass through.

    Drawn for each image from ``generator``, of the CPU, so that it is the same on every device.
    """
    b, _, height, width = x.shape
    if recipe.flip:
        flip = torch.rand(b, generator=generator) < 0.5
        x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(3), x)
    if pad := recipe.crop_padding:
        top, left = (torch.randint(0, 2 * pad + 1, (b, 1), generator=generator).to(x.device) for _ in "tl")
        rows = top + torch.arange(height, device=x.device)
        columns = left + torch.arange(width, device=x.device)
        padded = F.pad(x, (pad, pad, pad, pad), mode="reflect").permute(0, 2, 3, 1)
        index = torch.arange(b, device=x.device)[:, None, None]
        x = padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return x


def resume(optimizer: torch.optim.Optimizer, moved: torch.Tensor, state: State) -> None:
    """Give an Adam or RAdam of one tensor the moments that ``moments`` described; none: it is at its start."""
    if "step" in state:
        optimizer.state[moved] = {name: torch.from_numpy(state[name]).to(moved.device) for name in _MOMENTS}
        # Counted on the host, as the optimiser itself does it.
        optimizer.state[moved]["step"] = torch.from_numpy(state["step"]).clone()


def moments(optimizer: torch.optim.Optimizer, moved: torch.Tensor) -> Mapping[str, np.ndarray]:
    """What an Adam or RAdam remembers of one tensor, as plain arrays."""
    return {name: optimizer.state[moved][name].detach().cpu().numpy() for name in _MOMENTS}


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
