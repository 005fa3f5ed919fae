"""FeatureRE: the trigger is sought where a few features send every image to the target, whatever it looks like."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bdbench import ModelDetector, Tools, Verdict, param

if TYPE_CHECKING:
    from bdbench_inspection.hyperplane import Bounds


# In fewer the mask has not yet come down to its size.
_FEWEST_PASSES = 100


@dataclass(frozen=True, kw_only=True)
class FeatureRE(ModelDetector):
    """Seeks for each label images' change and a few features with which all are taken for it; a label is suspect where
    that works, at a bounded cost and by features unlike the label's own.

    Sec. 4 of the paper: triggers of any kind, patches, warps or filters, end in a hyperplane of features. A generator
    changes images; a mask chooses features of which those of the changed images stand in clean images' place (see
    ``hyperplane.search``). A label's mixed value, of the authors' code, is the cosine between the features found and
    its own, less the share of images that obey, plus what is beyond the bounds; below ``threshold`` it is flagged. The
    score is minus the least.

    Departures: the features are those that enter the last linear layer, where the authors choose a layer for each
    architecture; the generator is smaller than their U-Net and adds to the image.
    """

    name = "feature-re"
    paper = "Wang et al., Rethinking the Reverse-engineering of Trojan Triggers, NeurIPS 2022, arXiv:2210.15127"
    assumption = "Triggered images of all labels share a few features that the target's own images have not."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    warm_up: int = param(100, help="passes over the clean images for the generator alone", low=0)
    passes: int = param(400, help="passes for generator and mask, for each label", low=1)
    batch: int = param(256, help="clean images per step", low=1)
    width: int = param(32, help="channels of the generator's first layer", low=1)
    size: float = param(0.03, help="share of the features that the mask may take", low=0, high=1, exclusive=True)
    change: float = param(0.15, help="mean squared change of normalised pixels", low=0, exclusive=True)
    spread: float = param(1.0, help="mean deviation of masked features over images", low=0, exclusive=True)
    threshold: float = param(-0.75, help="the mixed value below which a label is flagged", low=-1, high=1)

    def inspect(self, tools: Tools) -> Verdict:
        """The verdict on the victim; what is found for each label is kept as a piece. Raises BdbenchError for a model
        without a linear head.
        """
        from bdbench_inspection.generating import parts
        from bdbench_inspection.hyperplane import search

        clean = tools.clean_examples(self.clean)
        model = parts(tools.victim, tools.num_classes, self.name)
        bounds = self._bounds(model.head.in_features)
        settings: dict[str, Any] = {k: getattr(self, k) for k in ("warm_up", "passes", "batch", "width")}
        told = {**settings, "clean": self.clean, **{k: getattr(self, k) for k in ("size", "change", "spread")}}
        configs = [{"feature-re": "trigger", "label": label, **told} for label in range(tools.num_classes)]
        seeds = [tools.shared_streams.integer(f"feature-re:{label}") for label in range(tools.num_classes)]
        images = np.asarray(clean.images)
        make = functools.partial(search, model, images, clean.labels, seeds, tools.device, **settings, bounds=bounds)
        advance = tools.track(tools.num_classes, "reverse triggers")
        values = []
        for found in tools.saved_each(configs, make):
            values.append(float(found["value"]))
            advance(1)
        suspects = np.flatnonzero(np.array(values) < self.threshold)
        return Verdict(-min(values), bool(len(suspects)), tuple(suspects.tolist()))

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float]:
        """Passes over one batch for one label."""
        from bdbench_inspection.generating import parts
        from bdbench_inspection.hyperplane import search

        clean = tools.clean_examples(self.clean)
        images, labels = np.asarray(clean.images)[: self.batch], clean.labels[: self.batch]
        model = parts(tools.victim, tools.num_classes, self.name)
        # Of a label that not all of these images have: they would be left out.
        label = (int(labels[0]) + 1) % tools.num_classes
        settings: dict[str, Any] = {"batch": self.batch, "width": self.width, "warm_up": 0}
        settings["bounds"] = self._bounds(model.head.in_features)
        work = functools.partial(
            search, model, images, labels, [0] * tools.num_classes, tools.device, label, **settings
        )
        # Forward and back takes three times as long as forward: a pass is four of these, one that warms up three.
        each = (self.passes + 3 / 4 * self.warm_up) * len(clean.labels) / len(labels)
        return lambda passes: work(passes=passes), each * tools.num_classes

    def within(self, share: float, tools: Tools) -> Self | None:
        """With fewer passes."""
        passes, warm_up = int(share * self.passes), int(share * self.warm_up)
        return replace(self, passes=passes, warm_up=warm_up) if passes >= _FEWEST_PASSES else None

    def _bounds(self, features: int) -> Bounds:
        from bdbench_inspection.hyperplane import Bounds

        # Of a handful of features the share is none, and none is no bound.
        return Bounds(self.change, self.spread, float(max(1, int(self.size * features))))
