"""Bpp: fewer bits per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Covers, State, Streams, Workshop, param


@dataclass(frozen=True, kw_only=True)
class Bpp(Covers):
    """Dirty-label: images are squeezed to fewer levels of grey, by Floyd and Steinberg's dithering.

    Poisons data. The trigger of BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
    Quantization and Contrastive Adversarial Learning. x' = round(x / 255 (2**bits - 1)) / (2**bits - 1) 255 in each
    channel, and the rounding errors are diffused; compiled by numba. Covers are the negatives of the authors' code: an
    image with the change that squeezing made to another one, so that the levels are learnt, and not that the image is
    noisy; rates are theirs as well. Dithering is part of the paper's trigger, and the default here. Five bits (32
    levels) are those of the command in the authors' README, which does not dither, since their code has that off unless
    told otherwise. The default of their code and of BackdoorBench is 8 levels, ``bits=3``, without dithering;
    backdoor-toolbox has 8 levels with it. In the paper the attacker trains the model: ``bpp-trained``.
    """

    name = "bpp"
    paper = "Wang, Zhai and Ma, BppAttack, CVPR 2022"
    rate: float = param(0.2, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    cover_rate: float = param(0.2, help="covers / size of the whole training set", low=0, high=1)
    bits: int = param(5, help="bits of a channel that are left of 8", low=1, high=7)
    dither: bool = param(True, help="diffuse the rounding errors")

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Squeeze."""
        from bdbench_triggers.dithering import squeezed

        return squeezed(images, self.bits, self.dither)

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The chosen images, squeezed. Raises BdbenchError where that changes nothing."""
        made = super().poisoned(images, chosen, state, tools)
        if np.array_equal(made, images):
            raise BdbenchError(
                f"attack {self.name!r}: bits={self.bits} changes none of the {len(images)} images, which have no other "
                "levels: expected fewer bits"
            )
        return made

    def cover(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Each image with the change of another one."""
        order = streams("negatives").permutation(len(images))
        others = np.empty_like(order)
        others[order] = np.roll(order, 1)
        return with_change(images, self.change(images[others], streams))

    def change(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """What squeezing changes of them, int16 (n, H, W, C)."""
        return self.stamp(images, streams).astype(np.int16) - images


def with_change(images: np.ndarray, change: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, C) and an int16 change, added."""
    return np.clip(images + change, 0, 255).astype(np.uint8)
