"""STRIP: what the model says of a triggered image stays, whatever is laid over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench import InputDetector, Split, State, Tools, param

_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Strip(InputDetector):
    """Minus the mean entropy of the model's answers to the input with each of some clean images laid over it.

    All inputs are met with the same overlays. mix: sum, x + o cut off at 255, the weights 1 and 1 that the authors'
    code hands to OpenCV, is the default; mean, (x + o) / 2, is what ART does, and halves the trigger as well. An
    overlay that is the input itself says nothing and is left out.
    """

    name = "strip"
    paper = "Gao et al., STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019"
    assumption = (
        "The trigger is the same for all inputs, and so strong that it decides the answer when another image is laid "
        "over it."
    )
    oracles = ("clean_set",)
    overlays: int = param(100, help="clean images that are laid over each input, if as many are set apart", low=1)
    mix: Literal["sum", "mean"] = param("sum", help="how: x + o cut off at 255, or (x + o) / 2")

    def fit(self, tools: Tools) -> State:
        """The overlays, uint8 (k, H, W, C)."""
        reserve: Split = tools.oracle("clean_set")
        size = len(reserve.labels)
        chosen = tools.streams("overlays").choice(size, min(self.overlays, size), replace=False)
        return {"overlays": np.asarray(reserve.images)[chosen]}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """Minus the mean entropy in bits, float64 (m,)."""
        overlays = state["overlays"]
        each = max(1, _AT_ONCE // len(overlays))
        scores = np.empty(len(images))
        advance = tools.track(len(images), "superimpose")
        for start in range(0, len(images), each):
            part = images[start : start + each]
            mixed = superimposed(part, overlays, self.mix)
            entropies = entropy(tools.victim.logits(mixed.reshape(-1, *images.shape[1:]))).reshape(mixed.shape[:2])
            other = (part[:, None] != overlays).any((2, 3, 4))
            other |= ~other.any(1, keepdims=True)
            scores[start : start + each] = -(entropies * other).sum(1) / other.sum(1)
            advance(len(part))
        return scores


def superimposed(images: np.ndarray, overlays: np.ndarray, mix: Literal["sum", "mean"]) -> np.ndarray:
    """Every image (m, H, W, C) with every overlay (k, H, W, C), uint8 (m, k, H, W, C)."""
    total = images[:, None].astype(np.uint16) + overlays
    return ((total + 1) // 2 if mix == "mean" else np.minimum(total, 255)).astype(np.uint8)


def entropy(logits: np.ndarray) -> np.ndarray:
    """Of the softmax of logits (n, K), in bits, float64 (n,)."""
    from scipy.special import entr, softmax

    return entr(softmax(logits.astype(np.float64), axis=1)).sum(1) / np.log(2)
