"""Adaptive-patch: four faint patches, of which every poison has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import BdbenchError, Streams, param
from bdbench_triggers.adaptive import Adaptive

# Top left, top right, bottom left, bottom right. The opacities are those of the authors' code, of its phoenix, firefox,
# BadNets patch and Trojan square; its CIFAR-10 models are tried with the first and the third (GTSRB: the others).
_OPACITIES = (0.5, 0.2, 0.5, 0.3)
_TRIED = (0, 2)


@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(Adaptive):
    """Dirty-label: x' = x + a_k m_k (t_k - x), with one of four patches t_k of opacity a_k in each training image.

    At test time two of them, or all, replace the pixels they lie on. The paper's pictures are not ours to hand on: here
    the first two patches are noise drawn from the seed, the third is a checkerboard and the fourth a white frame, each
    in a corner of its own. Its CIFAR-10 setting: 150 poisons and twice as many covers of 50,000.
    """

    name = "adaptive-patch"
    paper = "Qi et al., Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023"
    cover_rate: float = param(0.006, help="covers / size of the whole training set", low=0, high=1)
    size: int | None = param(None, help="side of a patch, in pixels (none: a quarter of the image's)", low=1)
    tried: Literal["two", "all"] = param("two", help="how many patches are on a test image")
    test_alpha: float = param(1.0, help="their opacity at test time", low=0, high=1)

    def planted(self, images: np.ndarray, streams: Streams, rng: np.random.Generator) -> np.ndarray:
        """One patch on each, all being on equally many."""
        which = rng.permutation(np.arange(len(images)) % len(_OPACITIES))
        stamped = images.copy()
        for k, opacity in enumerate(_OPACITIES):
            stamped[which == k] = self._with(images[which == k], k, opacity, streams)
        return stamped

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Those that test images have, at once."""
        stamped = images
        for k in _TRIED if self.tried == "two" else range(len(_OPACITIES)):
            stamped = self._with(stamped, k, self.test_alpha, streams)
        return stamped

    def _with(self, images: np.ndarray, k: int, opacity: float, streams: Streams) -> np.ndarray:
        height, width, channels = images.shape[1:]
        side = min(height, width) // 4 if self.size is None else self.size
        if not 1 <= side <= min(height, width) // 2:
            raise BdbenchError(
                f"attack {self.name!r}: size={side} does not fit images of {height} x {width}: "
                f"expected 1..{min(height, width) // 2}"
            )
        rows = slice(height - side, None) if k > 1 else slice(side)
        columns = slice(width - side, None) if k % 2 else slice(side)
        pixels = images[:, rows, columns]
        stamped = images.copy()
        stamped[:, rows, columns] = np.rint(pixels + opacity * (_patches(side, channels, streams)[k] - pixels))
        return stamped


def _patches(side: int, channels: int, streams: Streams) -> np.ndarray:
    """float64 (4, side, side, channels)."""
    noise = streams("trigger").integers(0, 256, (2, side, side, channels)).astype(np.float64)
    checker = np.indices((side, side)).sum(0) % 2 == 0
    frame = np.ones((side, side), bool)
    frame[1:-1, 1:-1] = False
    drawn = 255.0 * np.stack([checker, frame])[..., None]
    return np.concatenate([noise, np.broadcast_to(drawn, noise.shape)])
