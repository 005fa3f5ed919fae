"""Baseline defenses: one a file."""

from __future__ import annotations

from bdbench import Detector, RobustTraining, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector] | type[RobustTraining]]:
    """Spectral signatures, activation clustering, anti-backdoor learning, the floors, and the ceiling."""
    from bdbench_baselines.abl import AntiBackdoorLearning
    from bdbench_baselines.activation_clustering import ActivationClustering
    from bdbench_baselines.asset import Asset
    from bdbench_baselines.confusion_training import ConfusionTraining
    from bdbench_baselines.flare import Flare
    from bdbench_baselines.low_loss import LowLoss
    from bdbench_baselines.meta_sift import MetaSift
    from bdbench_baselines.perfect import PerfectFilter
    from bdbench_baselines.random import Random
    from bdbench_baselines.spectral import SpectralSignatures

    return [
        ActivationClustering,
        AntiBackdoorLearning,
        Asset,
        ConfusionTraining,
        Flare,
        LowLoss,
        MetaSift,
        PerfectFilter,
        Random,
        SpectralSignatures,
    ]
