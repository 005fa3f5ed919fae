"""What glass does to light: one picture seen through it, and another that it reflects."""

from __future__ import annotations

import torch

GAMMA = 2.2


def linear(images: torch.Tensor) -> torch.Tensor:
    """The light in uint8 (b, H, W, C), float (b, C, H, W) in 0..1."""
    light = (torch.arange(256, device=images.device) / 255) ** GAMMA
    return light[images.permute(0, 3, 1, 2).int()]


def reflected(pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """k * r: (1 - moved) r + moved M r N', where M and N blur, or shift, along the two sides; all (b, C, H, W)."""
    blurred, _, blur, down, right, moved = drawn.T
    rows, columns = _kernel(pictures.shape[2], blurred, blur, down), _kernel(pictures.shape[3], blurred, blur, right)
    return torch.lerp(pictures, rows[:, None] @ pictures @ columns[:, None].mT, moved[:, None, None, None])


def _kernel(side: int, blurred: torch.Tensor, blur: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """What each of ``side`` places takes from each, float (b, side, side), rows adding up to 1.

    Either a Gaussian around it, or what lies ``shift`` before it, by linear interpolation; at the border the edge goes
    on.
    """
    at = torch.arange(side, device=shift.device, dtype=torch.float32)
    gaussian = torch.exp(-0.5 * ((at[:, None] - at) / blur[:, None, None]) ** 2)
    origin = (at - shift[:, None]).clamp_min(0)
    shifted = (1 - (origin[:, :, None] - at).abs()).clamp_min(0)
    chosen = torch.where(blurred[:, None, None] > 0, gaussian, shifted)
    return chosen / chosen.sum(2, keepdim=True)
