"""Attacks: one a file."""

from __future__ import annotations

from bdbench import Attack, hookimpl


@hookimpl
def bdbench_register_attacks() -> list[type[Attack]]:
    """The attacks of the field, cascades of them, a natural feature, and the no-attack control."""
    from bdbench_triggers.badnets import BadNets
    from bdbench_triggers.blend import Blend
    from bdbench_triggers.cascade import Cascade
    from bdbench_triggers.label_consistent import LabelConsistent
    from bdbench_triggers.natural import Natural
    from bdbench_triggers.none import NoAttack
    from bdbench_triggers.sig import Sig
    from bdbench_triggers.tact import Tact

    return [BadNets, Blend, Cascade, LabelConsistent, Natural, NoAttack, Sig, Tact]
