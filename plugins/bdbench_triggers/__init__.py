"""Attacks: one a file."""

from __future__ import annotations

from bdbench import Attack, hookimpl


@hookimpl
def bdbench_register_attacks() -> list[type[Attack]]:
    """All attacks of this package, and the no-attack control."""
    from bdbench_triggers.adaptive_blend import AdaptiveBlend
    from bdbench_triggers.adaptive_patch import AdaptivePatch
    from bdbench_triggers.badnets import BadNets
    from bdbench_triggers.blend import Blend
    from bdbench_triggers.bpp import Bpp
    from bdbench_triggers.bpp_trained import BppTrained
    from bdbench_triggers.cascade import Cascade
    from bdbench_triggers.color import Color
    from bdbench_triggers.combat import Combat
    from bdbench_triggers.ctrl import Ctrl
    from bdbench_triggers.dynamic_patch import DynamicPatch
    from bdbench_triggers.ftrojan import FTrojan
    from bdbench_triggers.hidden_trigger import HiddenTrigger
    from bdbench_triggers.input_aware import InputAware
    from bdbench_triggers.label_consistent import LabelConsistent
    from bdbench_triggers.lira import Lira
    from bdbench_triggers.low_frequency import LowFrequency
    from bdbench_triggers.narcissus import Narcissus
    from bdbench_triggers.natural import Natural
    from bdbench_triggers.none import NoAttack
    from bdbench_triggers.refool import Refool
    from bdbench_triggers.sig import Sig
    from bdbench_triggers.sleeper_agent import SleeperAgent
    from bdbench_triggers.ssba import Ssba
    from bdbench_triggers.tact import Tact
    from bdbench_triggers.trojan_patch import TrojanPatch
    from bdbench_triggers.untargeted import Untargeted
    from bdbench_triggers.wanet import WaNet
    from bdbench_triggers.wanet_trained import WaNetTrained

    return [
        AdaptiveBlend,
        AdaptivePatch,
        BadNets,
        Blend,
        Bpp,
        BppTrained,
        Cascade,
        Color,
        Combat,
        Ctrl,
        DynamicPatch,
        FTrojan,
        HiddenTrigger,
        InputAware,
        LabelConsistent,
        Lira,
        LowFrequency,
        Narcissus,
        Natural,
        NoAttack,
        Refool,
        Sig,
        SleeperAgent,
        Ssba,
        Tact,
        TrojanPatch,
        Untargeted,
        WaNet,
        WaNetTrained,
    ]
