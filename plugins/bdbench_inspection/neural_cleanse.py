"""Neural Cleanse: the label that the smallest trigger leads to is the attacker's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from bdbench import ModelDetector, Split, Tools, Verdict, param

# Makes the median absolute deviation the standard deviation of a normal law.
_CONSISTENCY = 1.4826
# Of five searches the shortest ended after 83 rounds, the longest after 161. In far fewer no mask becomes small: the
# norms of all labels are those that chance began with.
_USUAL_ROUNDS, _FEWEST_ROUNDS = 120, 40


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(ModelDetector):
    """Seeks for each label the smallest patch that gives it to clean images; a label with a far smaller one is suspect.

    A mask and a pattern are found by Adam on cross-entropy + lambda |mask|, lambda adapted so that ``success`` of the
    images obey (see ``trigger.reverse``). The anomaly index is a norm's distance from the median of all
    labels' in median absolute deviations; below the median and above ``threshold``, 2 in the paper, it is flagged. The
    score is the largest index below the median. With few labels the median deviation is a rough scale: the paper's
    sets have ten and more. The number of rounds and the size of one are those of the authors' code.
    """

    name = "neural-cleanse"
    paper = "Wang et al., Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks, S&P 2019"
    assumption = "One small trigger, at one place, sends images of all labels to the target."
    oracles = ("clean_set",)
    rounds: int = param(1000, help="most rounds for each label, of up to 1,000 clean images each", low=1)
    lr: float = param(0.1, help="Adam's learning rate", low=0, exclusive=True)
    batch: int = param(32, help="clean images per step", low=1)
    success: float = param(0.99, help="the share of images that a trigger has to send to its label", low=0, high=1)
    threshold: float = param(2.0, help="the anomaly index above which a label is flagged", low=0)

    def inspect(self, tools: Tools) -> Verdict:
        """The verdict on the victim; each label's trigger is kept as a piece."""
        from bdbench_inspection.trigger import reverse

        reserve: Split = tools.oracle("clean_set")
        settings: dict[str, Any] = {"rounds": self.rounds, "lr": self.lr, "batch": self.batch, "success": self.success}
        configs = [{"neural-cleanse": "trigger", "label": label, **settings} for label in range(tools.num_classes)]
        model = tools.victim.module().eval().requires_grad_(False)
        seeds = [tools.shared_streams.integer(f"neural-cleanse:{label}") for label in range(tools.num_classes)]
        make = functools.partial(reverse, model, np.asarray(reserve.images), seeds, tools.device, **settings)
        advance = tools.track(tools.num_classes, "reverse triggers")
        norms = []
        for found in tools.saved_each(configs, make):
            norms.append(float(found["mask"].sum()))
            advance(1)
        index = anomaly(np.array(norms))
        suspects = np.flatnonzero(index > self.threshold)
        return Verdict(float(index.max()), bool(len(suspects)), tuple(suspects.tolist()))

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float]:
        """Rounds for one label."""
        from bdbench_inspection.trigger import reverse

        images = np.asarray(tools.oracle("clean_set").images)
        model = tools.victim.module().eval().requires_grad_(False)
        settings: dict[str, Any] = {"lr": self.lr, "batch": self.batch, "success": self.success}
        work = functools.partial(reverse, model, images, [0], tools.device, 0, **settings)
        return lambda rounds: work(rounds=rounds), self._usual * tools.num_classes

    def within(self, share: float, tools: Tools) -> Self | None:
        """With fewer rounds."""
        rounds = int(share * self._usual)
        return replace(self, rounds=rounds) if rounds >= _FEWEST_ROUNDS else None

    @property
    def _usual(self) -> int:
        """Rounds for a label: the search ends by itself."""
        return min(self.rounds, _USUAL_ROUNDS)


def anomaly(norms: np.ndarray) -> np.ndarray:
    """How far each norm (K,) lies below their median, in consistent median absolute deviations; negative above it."""
    below = np.median(norms) - norms
    return below / max(_CONSISTENCY * float(np.median(np.abs(below))), 1e-9)
