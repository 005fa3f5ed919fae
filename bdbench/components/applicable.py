"""Which defense applies to which attack. Imports no torch: tables ask it as well as runs."""

from __future__ import annotations

from bdbench.components import guard
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense


def why_not(defense: Defense, attack: Attack, reserve: float) -> str | None:
    """Why a defense does not apply to an attack in a setting, in a few words; None if it does."""
    try:
        with guard.call(defense):
            takes, told = defense.takes_training_set, tuple(defense.told)
    except Exception:
        return None  # it fails when its turn comes, and is named then
    if attack.trains and takes:
        return "the attacker trains the model"
    if "clean_set" in told and not reserve:
        return "no clean examples are set apart: reserve=0"
    return None
