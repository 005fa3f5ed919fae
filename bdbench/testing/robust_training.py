"""Checks of robust training: defenses that train a model on the poisoned set themselves."""

from __future__ import annotations

from typing import Any

from bdbench.components.defenses import RobustTraining
from bdbench.testing.checks import check
from bdbench.testing.kinds import expect_labels, expect_sound_results, predicted
from bdbench.testing.samples import Handed


def work(defense: RobustTraining, handed: Handed) -> dict[str, Any]:
    """What its model predicts."""
    return predicted(defense.train(handed.view, handed.tools), handed)


def sound(made: dict[str, Any], handed: Handed) -> None:
    """A label or a refusal for each input."""
    expect_labels(made, handed)


@check("robust_training")
def trains_a_model_that_predicts(defense: RobustTraining) -> None:
    """``train`` returns a model whose ``predict`` maps uint8 (m, H, W, C) to int64 (m,) in 0..K-1, or -1: refused.

    It is measured by what it predicts on the test set and on the attacker's images, and by nothing else.
    """
    expect_sound_results(defense)
