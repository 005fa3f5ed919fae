"""STRIP on the training set: what the model says of a poison stays, whatever is laid over it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bdbench import Detector, State, Tools, TrainingView, param
from bdbench_inspection.strip import Strip

# Examples of one piece of the work.
_PIECE = 4096


@dataclass(frozen=True, kw_only=True)
class StripFilter(Detector):
    """Minus the mean entropy of the victim's answers to an example with each of some clean images laid over it.

    The score of ``strip`` (with its ``mix``), on the training set. The decision is the authors' (sec. V-C of the
    paper): a normal law is fitted to the entropies of clean examples, and what has a lower entropy than a share ``frr``
    of that law is flagged. The clean examples are those that are laid over others; none is laid over itself.
    """

    name = "strip-filter"
    paper = "Gao et al., STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019"
    assumption = Strip.assumption
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)
    overlays: int = param(100, help="of these, how many are laid over each example, if there are as many", low=1)
    mix: Literal["sum", "mean"] = param("sum", help="how: x + o cut off at 255, or (x + o) / 2")
    frr: float = param(0.01, help="the share of clean examples that may be flagged", low=0, high=1, exclusive=True)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Minus the mean entropy in bits, float64 (n,); concludes with what the normal law does not allow for."""
        from scipy.stats import norm

        clean = np.asarray(tools.clean_examples(self.clean).images)
        chosen = tools.shared_streams("strip-filter").choice(len(clean), min(self.overlays, len(clean)), replace=False)
        strip, state = Strip(mix=self.mix), {"overlays": clean[chosen]}
        known: dict[str, Any] = {"strip-filter": self.config(), "piece": "clean"}
        usual = tools.saved(known, functools.partial(_scored, strip, clean, state, tools))["scores"]
        scores = np.empty(len(view.labels))
        for start in range(0, len(scores), _PIECE):
            make = functools.partial(_scored, strip, view.images[start : start + _PIECE], state, tools)
            scores[start : start + _PIECE] = tools.saved({**known, "piece": start}, make)["scores"]
        tools.conclude(flagged=scores > norm.ppf(1 - self.frr, usual.mean(), max(usual.std(), np.finfo(float).tiny)))
        return scores


def _scored(strip: Strip, images: np.ndarray, state: State, tools: Tools) -> dict[str, np.ndarray]:
    return {"scores": strip.score(images, state, tools)}
