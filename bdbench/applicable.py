"""Which defense applies to which attack. Imports no torch: tables ask it as well as runs."""

from __future__ import annotations

from bdbench.attacks import Attack
from bdbench.defenses import Defense


def why_not(defense: Defense, attack: Attack, reserve: float) -> str | None:
    """Why a defense does not apply to an attack in a setting, in a few words; None if it does."""
    if attack.trains and defense.takes_training_set:
        return "the attacker trains the model"
    if "clean_set" in defense.told and not reserve:
        return "no clean examples are set apart: reserve=0"
    return None
