"""CIE L*u*v* and back, for sRGB images under the daylight D65."""

from __future__ import annotations

import torch

# sRGB's primaries, from linear light to XYZ (IEC 61966-2-1); its white, as u' and v'; and where L* turns from a line
# into a cube root.
_TO_XYZ = torch.tensor(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    dtype=torch.float64,
)
_WHITE = _TO_XYZ.sum(1)
_U0, _V0 = (float(c * _WHITE[i] / (_WHITE @ torch.tensor([1.0, 15, 3]).double())) for i, c in ((0, 4), (1, 9)))
_EPSILON, _KAPPA, _TINY = 216 / 24389, 24389 / 27, 1e-6


def to_luv(rgb: torch.Tensor) -> torch.Tensor:
    """Float (..., 3) in 0..1 -> L* in 0..100, u* and v*."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (linear @ _TO_XYZ.T.to(rgb)).unbind(-1)
    lightness = torch.where(y > _EPSILON, 116 * y.clamp_min(_TINY) ** (1 / 3) - 16, _KAPPA * y)
    whole = (x + 15 * y + 3 * z).clamp_min(_TINY)
    return torch.stack([lightness, 13 * lightness * (4 * x / whole - _U0), 13 * lightness * (9 * y / whole - _V0)], -1)


def to_rgb(luv: torch.Tensor) -> torch.Tensor:
    """The inverse, clipped to 0..1: not all of L*u*v* can be shown. What has no light is black."""
    lightness, u, v = luv.unbind(-1)
    lightness = lightness.clamp_min(_TINY)
    u, v = u / (13 * lightness) + _U0, (v / (13 * lightness) + _V0).clamp_min(_TINY)
    y = torch.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / _KAPPA)
    xyz = torch.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)], -1)
    linear = (xyz @ torch.linalg.inv(_TO_XYZ).T.to(luv)).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(_TINY) ** (1 / 2.4) - 0.055)
