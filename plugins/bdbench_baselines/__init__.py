"""Baseline defenses: one a file."""

from __future__ import annotations

from bdbench import Detector, RobustTraining, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Detector] | type[RobustTraining]]:
    """Detectors of poisoned training examples with the floors and the ceiling, and defenses of training."""
    from bdbench_baselines.abl import AntiBackdoorLearning
    from bdbench_baselines.abl_isolation import AblIsolation
    from bdbench_baselines.activation_clustering import ActivationClustering
    from bdbench_baselines.asset import Asset
    from bdbench_baselines.augmentation import StrongAugmentation
    from bdbench_baselines.beatrix import Beatrix
    from bdbench_baselines.cognitive_distillation import CognitiveDistillation
    from bdbench_baselines.confident_learning import ConfidentLearning
    from bdbench_baselines.confusion_training import ConfusionTraining
    from bdbench_baselines.d_br import BackdoorRemoval
    from bdbench_baselines.d_st import SecureTraining
    from bdbench_baselines.dbd import DecouplingBasedDefense
    from bdbench_baselines.dp_sgd import DPSGD
    from bdbench_baselines.fct import FeatureConsistency
    from bdbench_baselines.flare import Flare
    from bdbench_baselines.frequency import Frequency
    from bdbench_baselines.ispl import IncompatibilityClustering
    from bdbench_baselines.knn import DeepKNN
    from bdbench_baselines.low_loss import LowLoss
    from bdbench_baselines.meta_sift import MetaSift
    from bdbench_baselines.mspc import MaskAwareConsistency
    from bdbench_baselines.nab import NonAdversarialBackdoor
    from bdbench_baselines.perfect import PerfectFilter
    from bdbench_baselines.random import Random
    from bdbench_baselines.scan import Scan
    from bdbench_baselines.spectral import SpectralSignatures
    from bdbench_baselines.spectre import Spectre
    from bdbench_baselines.unlearn import Unlearning

    return [
        AblIsolation,
        ActivationClustering,
        AntiBackdoorLearning,
        Asset,
        BackdoorRemoval,
        Beatrix,
        CognitiveDistillation,
        ConfidentLearning,
        ConfusionTraining,
        DPSGD,
        DecouplingBasedDefense,
        DeepKNN,
        FeatureConsistency,
        Flare,
        Frequency,
        IncompatibilityClustering,
        LowLoss,
        MaskAwareConsistency,
        MetaSift,
        NonAdversarialBackdoor,
        PerfectFilter,
        Random,
        Scan,
        SecureTraining,
        SpectralSignatures,
        Spectre,
        StrongAugmentation,
        Unlearning,
    ]
