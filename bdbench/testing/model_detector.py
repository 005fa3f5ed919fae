"""Checks of model detectors: defenses that say whether a model holds a backdoor."""

from __future__ import annotations

from typing import Any

import numpy as np

from bdbench.components.defenses import ModelDetector, Verdict
from bdbench.testing.checks import check, expect
from bdbench.testing.kinds import expect_sound_results
from bdbench.testing.samples import Handed


def work(detector: ModelDetector, handed: Handed) -> dict[str, Any]:
    """Its verdict."""
    verdict = detector.inspect(handed.tools)
    if not isinstance(verdict, Verdict):
        return {"verdict": np.array(repr(verdict))}
    values = {name: np.array(value) for name, value in vars(verdict).items() if value is not None}
    return {f"verdict's {name}": value for name, value in values.items()}


def sound(made: dict[str, Any], handed: Handed) -> None:
    """A Verdict of numbers that are possible."""
    expect("verdict" not in made, f"{made.get('verdict')} instead of a Verdict")
    score, flagged, targets = (made[f"verdict's {name}"] for name in ("score", "flagged", "targets"))
    expect(score.dtype.kind in "fiu" and score.shape == () and np.isfinite(score), f"score={score}")
    expect(flagged.dtype == bool and flagged.shape == (), f"flagged={flagged}, which is no bool")
    classes = handed.view.num_classes
    whole = targets.ndim == 1 and (targets.dtype.kind in "iu" or not targets.size)
    expect(whole, f"targets={targets.tolist()}: expected a tuple of labels")
    expect(((targets >= 0) & (targets < classes)).all(), f"targets={targets.tolist()} where K = {classes}")
    p_value = made.get("verdict's p_value", np.array(0.5))
    expect(0 <= p_value <= 1, f"p_value={p_value}")


@check("model_detector")
def gives_a_verdict(detector: ModelDetector) -> None:
    """``inspect`` returns a Verdict: a finite score, flagged as a bool, targets in 0..K-1, a p-value in [0, 1] or None.

    Scores of attacked and of clean models are ranked together; the targets are compared with the attacker's.
    """
    expect_sound_results(detector)
