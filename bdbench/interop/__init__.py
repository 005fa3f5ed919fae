"""Other libraries' detectors here, and ours there."""

from __future__ import annotations

from bdbench.components.defenses import Defense
from bdbench.registry.hookspecs import hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Defense]]:
    """The detectors of the Adversarial Robustness Toolbox."""
    from bdbench.interop.components import ArtDetector

    return [ArtDetector]
