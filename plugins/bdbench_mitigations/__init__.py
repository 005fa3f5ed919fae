"""Repair of a trained model: one method a file."""

from __future__ import annotations

from bdbench import Mitigation, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Mitigation]]:
    """Fine-tuning."""
    from bdbench_mitigations.fine_tuning import FineTuning

    return [FineTuning]
