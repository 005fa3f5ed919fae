"""A classifier of images by their cosine transforms: manipulated or not."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dctn
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench_baselines.manipulations import manipulated

_AT_ONCE = 256


class _Detector(nn.Module):
    """The authors' six convolutions; the last map is pooled to 4 x 4, as it is of theirs, whatever the image's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, dropped in ((channels, 32, 0.2), (32, 64, 0.3), (64, 128, 0.4)):
            for before in (inputs, outputs):
                layers += [nn.Conv2d(before, outputs, 3, padding=1), nn.ELU(), nn.BatchNorm2d(outputs)]
            layers += [nn.MaxPool2d(2, ceil_mode=True), nn.Dropout(dropped)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(128 * 16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def spectra(images: np.ndarray) -> np.ndarray:
    """The orthonormal cosine transform of each channel of uint8 (n, H, W, C) over 255, float32 (n, C, H, W)."""
    return dctn(images.transpose(0, 3, 1, 2).astype(np.float32) / 255, axes=(2, 3), norm="ortho")


def trained(clean: np.ndarray, seed: int, device: str, *, steps: int, batch: int, lr: float) -> dict[str, np.ndarray]:
    """The weights of a detector trained from ``seed``, by ``steps`` of Adam with the rate ``lr``.

    clean: uint8 (n, H, W, C), of which each step takes ``batch``, and copies of these, ``manipulated`` anew.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        detector = _Detector(clean.shape[3]).to(device).train()
        optimizer = torch.optim.Adam(detector.parameters(), lr=lr)
        labels = torch.arange(2, device=device).repeat_interleave(min(batch, len(clean)))
        for _ in range(steps):
            images = clean[rng.permutation(len(clean))[:batch]]
            x = torch.from_numpy(spectra(np.concatenate([images, manipulated(images, rng)]))).to(device)
            optimizer.zero_grad()
            cross_entropy(detector(x), labels).backward()
            optimizer.step()
    return {name: value.cpu().numpy() for name, value in detector.state_dict().items()}


def log_odds(weights: dict[str, np.ndarray], images: np.ndarray, device: str) -> np.ndarray:
    """log p(manipulated) - log p(not) of uint8 (n, H, W, C) by a detector of these weights, float64 (n,)."""
    detector = _Detector(images.shape[3])
    detector.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    detector.to(device).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), _AT_ONCE):
            x = torch.from_numpy(spectra(images[start : start + _AT_ONCE])).to(device)
            found.append(detector(x).diff(dim=1)[:, 0].double().cpu().numpy())
    return np.concatenate(found)
