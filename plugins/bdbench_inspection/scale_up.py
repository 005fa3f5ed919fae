"""SCALE-UP: the label of a triggered image stays when all of its pixels are multiplied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import InputDetector, State, Tools, param


@dataclass(frozen=True, kw_only=True)
class ScaleUp(InputDetector):
    """The share of multiples of an image, cut off at 255, that keep its label: scaled prediction consistency (SPC).

    Data-free (sec. 4.2 of the paper) SPC is the score, a multiple of 1 / the number of factors: no more is seen of a
    model than its labels. Data-limited (sec. 4.3), ``limited=true``, is the number of deviations by which it exceeds
    the mean SPC of the clean examples of the class that the image is taken for. Of a class with fewer than two of
    them, all clean examples' mean and deviation are taken; and no deviation is less than half of SPC's step, where
    the paper would divide by 0. BackdoorBox and backdoor-toolbox always take those of all classes together, and the
    latter 3, 5 and 7 alone. The authors leave the threshold to the defender.
    """

    name = "scale-up"
    paper = (
        "Guo et al., SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled Prediction "
        "Consistency, ICLR 2023"
    )
    assumption = (
        "The trigger decides the label also when all pixels are multiplied, which takes clean images to other labels."
    )
    factors: tuple[float, ...] = param((3.0, 5.0, 7.0, 9.0, 11.0), help="what pixels are multiplied by", low=1)
    limited: bool = param(False, help="compare with clean examples of the same label", oracle="clean_set")
    clean: int | None = param(None, help="limited: clean examples to use (none: all that are set apart)", low=1)

    def fit(self, tools: Tools) -> State:
        """Data-limited: mean and deviation of the SPC of each class, both float64 (K,). Else nothing."""
        if not self.limited:
            return {}
        clean = tools.clean_examples(self.clean)
        spc = self._consistency(np.asarray(clean.images), tools)[0]
        mean, deviation = np.full(tools.num_classes, spc.mean()), np.full(tools.num_classes, spc.std())
        for label, count in zip(*np.unique(clean.labels, return_counts=True), strict=True):
            if count > 1:
                members = spc[clean.labels == label]
                mean[label], deviation[label] = members.mean(), members.std()
        return {"mean": mean, "deviation": np.maximum(deviation, 0.5 / len(self.factors))}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """SPC, or how far it lies above that of its class, float64 (m,)."""
        spc, labels = self._consistency(images, tools)
        return (spc - state["mean"][labels]) / state["deviation"][labels] if self.limited else spc

    def _consistency(self, images: np.ndarray, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """SPC, float64 (m,), and the labels of the images themselves, int64 (m,)."""
        labels = tools.victim.predict(images)
        kept = [tools.victim.predict(multiplied(images, factor)) == labels for factor in self.factors]
        return np.array(kept).mean(0, dtype=np.float64), labels


def multiplied(images: np.ndarray, factor: float) -> np.ndarray:
    """uint8 images (m, H, W, C) with every pixel multiplied, and cut off at 255."""
    # Of 256 values there are no more than 256 multiples.
    return np.rint(np.minimum(np.arange(256) * factor, 255)).astype(np.uint8)[images]
