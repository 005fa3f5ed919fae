"""Random changes of images that leave their class as it is, drawn for each; for self-supervision.

All take and give float (b, C, H, W). What is drawn comes from torch's global generator of the CPU, which the harness
seeds in training, so that it is the same on every device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

# Of 32 pixels, the side of the images for which the papers give numbers in pixels.
_SIDE = 32
# Brightness, red minus blue and green minus both (YIQ): hues are angles in the last two.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class Views:
    """Changes of normalised images. mean, std: float32 (C,), of the normalisation; flip: whether mirroring is one."""

    def __init__(self, mean: np.ndarray, std: np.ndarray, flip: bool) -> None:
        self._mean, self._std = (torch.from_numpy(np.array(a))[:, None, None] for a in (mean, std))
        self._flip = flip

    def strong(self, x: torch.Tensor, blur: bool = True) -> torch.Tensor:
        """SimCLR's: a crop of .2 to 1 of the area resized, other colours, grey, with ``blur`` out of focus."""
        mean, std = self._mean.to(x.device), self._std.to(x.device)
        pixels = jittered(cropped(self._mirrored(x * std + mean), 0.2))
        return ((blurred(pixels) if blur else pixels) - mean) / std

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (b, H, W, C) as what this changes."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return (pixels - self._mean.to(images.device)) / self._std.to(images.device)

    def weak(self, x: torch.Tensor) -> torch.Tensor:
        """Moved by up to an eighth of the side; the edge is reflected."""
        pad = [max(1, side // 8) for side in x.shape[2:]]
        padded = F.pad(self._mirrored(x), (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
        rows, columns = (
            (torch.randint(2 * p + 1, (len(x), 1)) + torch.arange(side)).to(x.device)
            for p, side in zip(pad, x.shape[2:], strict=True)
        )
        images, channels = (torch.arange(size, device=x.device) for size in x.shape[:2])
        return padded[
            images[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]

    def _mirrored(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(_chosen(x, 0.5), x.flip(3), x) if self._flip else x


def cropped(x: torch.Tensor, smallest: float) -> torch.Tensor:
    """A rectangle of ``smallest`` to 1 of the area and 3:4 to 4:3, resized to the whole."""
    b = len(x)
    area = smallest + (1 - smallest) * torch.rand(b)
    ratio = torch.exp((2 * torch.rand(b) - 1) * math.log(4 / 3)).sqrt()
    scales = torch.stack([(area.sqrt() * r).clamp(max=1) for r in (ratio, 1 / ratio)], 1)
    shifts = (1 - scales) * (2 * torch.rand(b, 2) - 1)
    theta = torch.cat([torch.diag_embed(scales), shifts[:, :, None]], 2).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # By half a pixel it reaches over the edge.
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def jittered(x: torch.Tensor) -> torch.Tensor:
    """Of pixels in 0..1, for 4 of 5 images: brightness, contrast and saturation by up to 40 %, and hue by up to 36
    degrees; a fifth of all becomes grey."""
    b = len(x)
    brightness, contrast, saturation = (0.6 + 0.8 * torch.rand(3, b, 1, 1, 1)).to(x)
    made = (x * brightness).clamp(0, 1)
    middle = _grey(made).mean((2, 3), keepdim=True)
    made = (middle + contrast * (made - middle)).clamp(0, 1)
    if x.shape[1] == 3:
        made = _turned(made, saturation, (0.2 * math.pi * (2 * torch.rand(b) - 1)).to(x))
    made = torch.where(_chosen(x, 0.8), made, x)
    return torch.where(_chosen(x, 0.2), _grey(made).expand_as(made), made)


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Half of the images by a Gaussian of .1 to 2 pixels for a side of 32, and in proportion for others."""
    b, channels, *sides = x.shape
    sigma = (0.1 + 1.9 * torch.rand(b, 1)) * min(sides) / _SIDE
    reach = min(max(1, round(6 * min(sides) / _SIDE)), min(sides) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0).to(x)
    flat = F.pad(x.reshape(1, b * channels, *sides), [reach] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=b * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=b * channels)
    return torch.where(_chosen(x, 0.5), flat.view_as(x), x)


def _turned(x: torch.Tensor, saturation: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Of colours (b, 3, H, W): saturation (b, 1, 1, 1) times as far from grey, and hue turned by angles (b,)."""
    there = _YIQ.to(x)
    y, i, q = torch.einsum("cd,bdhw->cbhw", there, x)
    cos, sin, strength = (v[:, None, None] for v in (angle.cos(), angle.sin(), saturation[:, 0, 0, 0]))
    turned = torch.stack([y, strength * (cos * i - sin * q), strength * (sin * i + cos * q)])
    return torch.einsum("cd,dbhw->bchw", torch.linalg.inv(there), turned).clamp(0, 1)


def _grey(x: torch.Tensor) -> torch.Tensor:
    return x if x.shape[1] == 1 else torch.einsum("c,bchw->bhw", _YIQ[0].to(x), x)[:, None]


def _chosen(x: torch.Tensor, share: float) -> torch.Tensor:
    return (torch.rand(len(x)) < share).to(x.device)[:, None, None, None]
