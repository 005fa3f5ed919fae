"""The datamodel detector of Khaddaj et al., Rethinking Backdoor Attacks, ICML 2023.

``ensemble`` trains many small networks on random subsets, ``estimators`` turns their margins into a
train-on-train matrix, ``search`` finds the subsets that support each other most, ``scoring`` turns these
into one score per example, ``detector`` puts the four together.
"""

from __future__ import annotations

from bdbench import Detector, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector]]:
    """The datamodel detector."""
    from bdbench_datamodel.detector import Datamodel

    return [Datamodel]
