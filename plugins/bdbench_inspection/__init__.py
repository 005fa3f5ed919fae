"""Detectors of triggered inputs and of backdoored models: one a file."""

from __future__ import annotations

from bdbench import InputDetector, ModelDetector, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[InputDetector] | type[ModelDetector]]:
    """None yet."""
    return []
