"""SentiNet: what decides the answer to a triggered image decides it in other images as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, InputDetector, State, Tools, param

_AT_ONCE = 4096
# Clean points are sorted into bins of confidence this wide; of each the one that fools most is the law's.
_BIN = 0.02


@dataclass(frozen=True, kw_only=True)
class SentiNet(InputDetector):
    """How many clean images a region of the input takes to its label, beyond what is usual at that confidence.

    The region is where Grad-CAM of the predicted label is highest. It is laid over clean images: ``fooled`` is the
    share of them that then get the label. Noise in its place gives the mean confidence, which is low where the region
    covers what the images show. Of clean inputs the points (confidence, fooled) that fool most in each bin make a
    quadratic law; the score is the distance to it, negative below. The paper flags what lies above it by more than
    the mean distance of the clean points above it; here the harness sets the threshold.

    The region is a fixed share of the pixels, as in backdoor-toolbox, which however tells the method where patches
    are, and has Grad-CAM look at the last stage of a ResNet; here it is the last convolution. The paper also takes off
    what speaks for other classes that selective search proposes: not done.
    """

    name = "sentinet"
    paper = (
        "Chou, Tramer and Pellegrino, SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems, "
        "IEEE S&P Workshops 2020"
    )
    assumption = "The trigger is a small region that takes any image to the target, and that Grad-CAM finds."
    oracles = ("clean_set",)
    share: float = param(0.15, help="of the pixels, those of the region", low=0, high=1, exclusive=True)
    overlays: int = param(100, help="clean images that a region is laid over; at most half of those set apart", low=1)
    clean: int = param(400, help="clean inputs that the law is fitted to, if as many are left", low=1)

    def fit(self, tools: Tools) -> State:
        """The overlays, the noise, both uint8, and the law's coefficients, the highest power first."""
        reserve = np.asarray(tools.clean_examples(None).images)
        order = tools.streams("clean").permutation(len(reserve))
        count = max(1, min(self.overlays, len(reserve) // 2))
        noise = tools.streams("noise").integers(0, 256, reserve.shape[1:], dtype=np.uint8)
        state = {"overlays": reserve[order[:count]], "noise": noise}
        fooled, confidence = self._tried(reserve[order[count:][: self.clean]], state, tools)
        return {**state, "law": law(confidence, fooled)}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """Distance above the law, float64 (m,). Raises BdbenchError for a network without convolutions."""
        fooled, confidence = self._tried(images, state, tools)
        return above(state["law"], confidence, fooled)

    def _tried(self, images: np.ndarray, state: State, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """The share of overlays that each image's region fools, and their mean confidence under noise, (m,) each."""
        from scipy.special import softmax

        from bdbench_inspection.gradcam import heatmaps

        model = tools.victim.module().eval()
        labels, overlays = tools.victim.predict(images), state["overlays"]
        each = max(1, _AT_ONCE // len(overlays))
        fooled, confidence = np.empty(len(images)), np.empty(len(images))
        advance = tools.track(len(images), "lay regions over clean images")
        for start in range(0, len(images), each):
            part = slice(start, start + each)
            try:
                heat = heatmaps(model, images[part], labels[part], tools.device)
            except ValueError as error:
                raise BdbenchError(
                    f"defense {self.name!r} does not apply to model {tools.architecture.name!r}: {error}: expected one "
                    "that has some"
                ) from None
            region = highest(heat, self.share)[:, None, ..., None]
            shape = (-1, *images.shape[1:])
            with_region = np.where(region, images[part, None], overlays)
            logits = tools.victim.logits(with_region.reshape(shape)).reshape(*with_region.shape[:2], -1)
            fooled[part] = (logits.argmax(2) == labels[part, None]).mean(1)
            inert = np.where(region, state["noise"], overlays)
            logits = tools.victim.logits(inert.reshape(shape)).reshape(*inert.shape[:2], -1)
            confidence[part] = softmax(logits.astype(np.float64), axis=2).max(2).mean(1)
            advance(len(region))
        return fooled, confidence


def highest(heat: np.ndarray, share: float) -> np.ndarray:
    """Where each of heat (m, H, W) is highest: ``share`` of the pixels, at least one, bool (m, H, W)."""
    flat = heat.reshape(len(heat), -1)
    count = max(1, round(share * flat.shape[1]))
    region = np.zeros(flat.shape, bool)
    np.put_along_axis(region, np.argpartition(-flat, count - 1, axis=1)[:, :count], True, axis=1)
    return region.reshape(heat.shape)


def law(confidence: np.ndarray, fooled: np.ndarray) -> np.ndarray:
    """Coefficients float64 (3,) of the quadratic through the points that fool most, of every bin of confidence."""
    bins = np.floor((confidence - confidence.min()) / _BIN).astype(int)
    first = np.array([members[fooled[members].argmax()] for members in (np.flatnonzero(bins == b) for b in set(bins))])
    # Fewer points than a quadratic has coefficients determine no more of it.
    degree = min(2, len(first) - 1)
    return np.concatenate([np.zeros(2 - degree), np.polyfit(confidence[first], fooled[first], degree)])


def above(law: np.ndarray, confidence: np.ndarray, fooled: np.ndarray) -> np.ndarray:
    """The signed distance float64 (m,) of points to the curve of a law, positive above it."""
    distances = []
    curve = np.poly1d(law)
    for x, y in zip(confidence, fooled, strict=True):
        # Where the square of the distance has derivative 0.
        roots = (np.poly1d([1, -x]) + (curve - y) * curve.deriv()).roots
        near = roots[np.abs(roots.imag) < 1e-9].real
        distance = np.hypot(near - x, curve(near) - y).min()
        distances.append(distance if y > curve(x) else -distance)
    return np.array(distances, np.float64)
