"""Detectors of triggered inputs and of backdoored models: one a file."""

from __future__ import annotations

from bdbench import InputDetector, ModelDetector, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[InputDetector] | type[ModelDetector]]:
    """Those of inputs and those of models."""
    from bdbench_inspection.badexpert import BaDExpert
    from bdbench_inspection.ibd_psc import IbdPsc
    from bdbench_inspection.neural_cleanse import NeuralCleanse
    from bdbench_inspection.scale_up import ScaleUp
    from bdbench_inspection.strip import Strip
    from bdbench_inspection.teco import TeCo

    return [BaDExpert, IbdPsc, NeuralCleanse, ScaleUp, Strip, TeCo]
