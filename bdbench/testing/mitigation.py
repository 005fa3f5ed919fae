"""Checks of mitigations: defenses that repair the victim."""

from __future__ import annotations

from typing import Any

from bdbench.components.defenses import Mitigation
from bdbench.testing.checks import check
from bdbench.testing.kinds import expect_labels, expect_sound_results, predicted
from bdbench.testing.samples import Handed


def work(mitigation: Mitigation, handed: Handed) -> dict[str, Any]:
    """What the repaired model predicts."""
    return predicted(mitigation.repair(handed.tools), handed)


def sound(made: dict[str, Any], handed: Handed) -> None:
    """A label or a refusal for each input."""
    expect_labels(made, handed)


@check("mitigation")
def repairs_to_a_model_that_predicts(mitigation: Mitigation) -> None:
    """``repair`` returns a model whose ``predict`` maps uint8 (m, H, W, C) to int64 (m,) in 0..K-1, or -1: refused.

    It need not be of the victim's architecture: masks, wrappers and models that refuse are measured as well.
    """
    expect_sound_results(mitigation)
