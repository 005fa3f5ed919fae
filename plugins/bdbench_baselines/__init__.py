"""Baseline defenses: one a file."""

from __future__ import annotations

from bdbench import Detector, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector]]:
    """Spectral signatures, activation clustering, and the floors: random and low loss."""
    from bdbench_baselines.activation_clustering import ActivationClustering
    from bdbench_baselines.low_loss import LowLoss
    from bdbench_baselines.random import Random
    from bdbench_baselines.spectral import SpectralSignatures

    return [ActivationClustering, LowLoss, Random, SpectralSignatures]
