"""What crafted attacks share: images as tensors, augmentation that gradients pass through, optimisers that go on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bdbench import Recipe, State


def to_floats(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (n, H, W, C) as float (n, C, H, W) in 0..1."""
    return pixels(torch.from_numpy(np.ascontiguousarray(images)).to(device))


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, H, W, C) -> float (n, C, H, W) in 0..1."""
    return images.permute(0, 3, 1, 2).float().div(255).contiguous()


def to_bytes(x: torch.Tensor) -> np.ndarray:
    """Float (n, C, H, W) in 0..1 as uint8 (n, H, W, C), rounded."""
    return (x.detach() * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def augment(x: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Float (b, C, H, W) flipped and cropped at random as the recipe trains; gradients pass through."""
    return recipe.augmentation(len(x), generator)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
