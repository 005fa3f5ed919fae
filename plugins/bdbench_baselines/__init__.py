"""Baseline defenses: one a file."""

from __future__ import annotations

from bdbench import Detector, RobustTraining, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector] | type[RobustTraining]]:
    """Spectral signatures, activation clustering, anti-backdoor learning, the floors, and the ceiling."""
    from bdbench_baselines.abl import AntiBackdoorLearning
    from bdbench_baselines.abl_isolation import AblIsolation
    from bdbench_baselines.activation_clustering import ActivationClustering
    from bdbench_baselines.cognitive_distillation import CognitiveDistillation
    from bdbench_baselines.confident_learning import ConfidentLearning
    from bdbench_baselines.fct import FeatureConsistency
    from bdbench_baselines.frequency import Frequency
    from bdbench_baselines.knn import DeepKNN
    from bdbench_baselines.low_loss import LowLoss
    from bdbench_baselines.mspc import MaskAwareConsistency
    from bdbench_baselines.perfect import PerfectFilter
    from bdbench_baselines.random import Random
    from bdbench_baselines.spectral import SpectralSignatures

    return [
        AblIsolation,
        ActivationClustering,
        AntiBackdoorLearning,
        CognitiveDistillation,
        ConfidentLearning,
        DeepKNN,
        FeatureConsistency,
        Frequency,
        LowLoss,
        MaskAwareConsistency,
        PerfectFilter,
        Random,
        SpectralSignatures,
    ]
