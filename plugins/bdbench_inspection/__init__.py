"""Detectors of triggered inputs and of backdoored models: one a file."""

from __future__ import annotations

from bdbench import InputDetector, ModelDetector, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[InputDetector] | type[ModelDetector]]:
    """STRIP and Neural Cleanse."""
    from bdbench_inspection.neural_cleanse import NeuralCleanse
    from bdbench_inspection.strip import Strip

    return [NeuralCleanse, Strip]
