"""Attacks: one a file."""

from __future__ import annotations

from bdbench import Attack, hookimpl


@hookimpl
def bdbench_register_attacks() -> list[type[Attack]]:
    """BadNets, Blend, Color, CTRL, label-consistent, low-frequency, SIG, TaCT, trojan patch and the control."""
    from bdbench_triggers.badnets import BadNets
    from bdbench_triggers.blend import Blend
    from bdbench_triggers.color import Color
    from bdbench_triggers.ctrl import Ctrl
    from bdbench_triggers.label_consistent import LabelConsistent
    from bdbench_triggers.low_frequency import LowFrequency
    from bdbench_triggers.none import NoAttack
    from bdbench_triggers.sig import Sig
    from bdbench_triggers.tact import Tact
    from bdbench_triggers.trojan_patch import TrojanPatch

    return [BadNets, Blend, Color, Ctrl, LabelConsistent, LowFrequency, NoAttack, Sig, Tact, TrojanPatch]
