"""Grad-CAM: where in an image a network finds what speaks for a label."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate


def heatmaps(model: nn.Module, images: np.ndarray, labels: np.ndarray, device: str) -> np.ndarray:
    """Grad-CAM of the model's last convolution (Selvaraju et al., ICCV 2017, eq. 1 and 2), float32 (m, H, W), >= 0.

    model: float (m, C, H, W) in 0..1 to logits; images: uint8 (m, H, W, C); labels: int64 (m,), whose logits are
    explained. Raises ValueError for a network without convolutions.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not layers:
        raise ValueError("the network has no convolution")
    kept: list[torch.Tensor] = []
    hook = layers[-1].register_forward_hook(lambda layer, given, out: kept.append(out))
    try:
        with torch.enable_grad():
            x = torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255
            # The maps have to hang on something that wants a gradient, whether or not the weights do.
            logits = model(x.requires_grad_(True))
            wanted = logits[torch.arange(len(x)), torch.as_tensor(labels, device=device)].sum()
            (gradients,) = torch.autograd.grad(wanted, kept)
    finally:
        hook.remove()
    weighted = (kept[0] * gradients.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    wide = interpolate(weighted.detach(), size=images.shape[1:3], mode="bilinear", align_corners=False)
    return wide[:, 0].cpu().numpy()
