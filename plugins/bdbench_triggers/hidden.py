"""A patch that no training image shows: crafted images of the target class teach it."""

from __future__ import annotations

import dataclasses
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from bdbench import BdbenchError, SourceSpecific, Split, State, Streams, Workshop, param
from bdbench_triggers.patch import Patch

# The authors of the hidden trigger enlarge 4 x 4 random colours.
_COLOURS = 4
_SHARE = 4


@dataclass(frozen=True, kw_only=True)
class HiddenPatch(Patch, SourceSpecific, ABC):
    """Clean-label, and source-specific or not: ``craft`` returns "index" int64 (m,) and "images" uint8 (m, H, W, C).

    Test images of the source class get the patch; the crafted images, in the place of examples of the target class,
    differ from those by at most ``eps`` and do not show it. There are no covers unless ``cover_rate`` asks for some.
    A quarter of the side is what Sleeper Agent's patch has on CIFAR-10; on ImageNet it has 30 of 224 pixels, as has the
    hidden trigger's.
    """

    clean_label: ClassVar[bool] = True
    source: Literal["seed", "all"] | int = param(  # type: ignore[assignment]
        "seed", help="the class that the trigger works on (seed: drawn from the seed, never the target), or all", low=0
    )
    cover_rate: float = param(
        0.0,
        help="covers / size of the whole training set; they show the patch, which is then not hidden",
        low=0,
        high=1,
    )
    size: int = param(0, help="side of the patch, in pixels (0: a quarter of the shorter side, 8 of 32)", low=0)
    pattern: Literal["white", "checker", "noise"] = param(
        "noise", help="white; black and white in turn; or 4 x 4 random colours from the seed, enlarged"
    )
    placement: Literal["random", "corner"] = param(
        "random", help="where the patch is: anywhere, drawn for each image, or in the corner"
    )
    eps: float = param(16.0, help="how far a pixel may move, in grey levels of 255", low=0, exclusive=True)

    @property
    def bystanders(self) -> bool:  # type: ignore[override]
        """Test images of other classes than the source; none if all are sources."""
        return self.source != "all"

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With a target and a source. Raises BdbenchError for those that are not there."""
        if self.source == "all":
            return super(SourceSpecific, self).settled(num_classes, streams)
        return super().settled(num_classes, streams)

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The target for the source class, or for all; its own label for any other."""
        if self.source == "all":
            return super(SourceSpecific, self).goal(labels, num_classes)
        return super().goal(labels, num_classes)

    def sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Poisons are of the target class."""
        return labels == self.target

    def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Neither of the source nor of the target class."""
        return (goal == labels) & (labels != self.target)

    def drawn(self, train: Split, tools: Workshop) -> np.ndarray:
        """Random examples of the target class, sorted, as many as there are to be poisons. Raises BdbenchError."""
        return super().chosen(train, train.labels, {}, tools)

    def chosen(self, train: Split, goal: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The examples that were crafted."""
        return state["index"]

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The crafted images."""
        return state["images"]

    def source_pool(self, train: Split, tools: Workshop) -> np.ndarray:
        """The training examples that the trigger is to work on, in random order. Raises BdbenchError without any."""
        goal = self.goal(train.labels, tools.num_classes)
        pool = np.flatnonzero((goal == self.target) & (train.labels != self.target))
        if not len(pool):
            raise BdbenchError(f"source={self.source} has no training images: expected a class with at least 1")
        return tools.streams("sources").permutation(pool)

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Put the patch on. Raises BdbenchError if it does not fit."""
        n, height, width = images.shape[:3]
        sized = dataclasses.replace(self, size=self.size or max(1, min(height, width) // _SHARE))
        if self.placement == "corner":
            return Patch.stamp(sized, images, streams)
        first = dataclasses.replace(sized, corner="top-left", margin=0)
        side = first.size
        patch = Patch.stamp(first, np.zeros((1, *images.shape[1:]), np.uint8), streams)[0, :side, :side]
        places = streams("places")
        rows = places.integers(0, height - side + 1, n)[:, None] + np.arange(side)
        columns = places.integers(0, width - side + 1, n)[:, None] + np.arange(side)
        stamped = images.copy()
        stamped[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] = patch
        return stamped

    def _patch(self, channels: int, streams: Streams) -> np.ndarray:
        if self.pattern != "noise":
            return super()._patch(channels, streams)
        count = min(_COLOURS, self.size)
        colours = streams("trigger").integers(0, 256, (count, count, channels))
        # Bilinear: between the centres of the colours, and flat beyond the outer ones.
        centres = (np.arange(self.size) + 0.5) * count / self.size - 0.5
        weights = np.stack([np.interp(centres, np.arange(count), one) for one in np.eye(count)], axis=1)
        return np.rint(np.einsum("ai,bj,ijc->abc", weights, weights, colours)).astype(np.uint8)
