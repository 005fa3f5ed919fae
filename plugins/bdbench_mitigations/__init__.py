"""Repair of a trained model: one method a file."""

from __future__ import annotations

from bdbench import Mitigation, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Mitigation]]:
    """Fine-tuning, and none."""
    from bdbench_mitigations.fine_tuning import FineTuning
    from bdbench_mitigations.none import NoDefense

    return [FineTuning, NoDefense]
