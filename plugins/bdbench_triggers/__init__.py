"""Attacks: one a file."""

from __future__ import annotations

from bdbench import Attack, hookimpl


@hookimpl
def bdbench_register_attacks() -> list[type[Attack]]:
    """BadNets, Blend, hidden trigger, label-consistent, Narcissus, SIG, Sleeper Agent, TaCT; the no-attack control."""
    from bdbench_triggers.badnets import BadNets
    from bdbench_triggers.blend import Blend
    from bdbench_triggers.hidden_trigger import HiddenTrigger
    from bdbench_triggers.label_consistent import LabelConsistent
    from bdbench_triggers.narcissus import Narcissus
    from bdbench_triggers.none import NoAttack
    from bdbench_triggers.sig import Sig
    from bdbench_triggers.sleeper_agent import SleeperAgent
    from bdbench_triggers.tact import Tact

    return [BadNets, Blend, HiddenTrigger, LabelConsistent, Narcissus, NoAttack, Sig, SleeperAgent, Tact]
