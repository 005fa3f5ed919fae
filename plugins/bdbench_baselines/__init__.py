"""Baseline defenses: one a file."""

from __future__ import annotations

from bdbench import Detector, RobustTraining, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector] | type[RobustTraining]]:
    """Spectral signatures, activation clustering, anti-backdoor learning, the floors, and the ceiling."""
    from bdbench_baselines.abl import AntiBackdoorLearning
    from bdbench_baselines.activation_clustering import ActivationClustering
    from bdbench_baselines.beatrix import Beatrix
    from bdbench_baselines.ispl import IncompatibilityClustering
    from bdbench_baselines.low_loss import LowLoss
    from bdbench_baselines.perfect import PerfectFilter
    from bdbench_baselines.random import Random
    from bdbench_baselines.scan import Scan
    from bdbench_baselines.spectral import SpectralSignatures
    from bdbench_baselines.spectre import Spectre
    from bdbench_baselines.strip_filter import StripFilter

    return [
        ActivationClustering,
        AntiBackdoorLearning,
        Beatrix,
        IncompatibilityClustering,
        LowLoss,
        PerfectFilter,
        Random,
        Scan,
        SpectralSignatures,
        Spectre,
        StripFilter,
    ]
