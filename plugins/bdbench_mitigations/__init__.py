"""Repair of a trained model: one method a file."""

from __future__ import annotations

from bdbench import Defense, hookimpl


@hookimpl
def bdbench_register_defenses() -> list[type[Defense]]:
    """Repairs after training, none, and what prunes with the training set at hand."""
    from bdbench_mitigations.anp import AdversarialNeuronPruning
    from bdbench_mitigations.bnp import BatchNormalizationPruning
    from bdbench_mitigations.clp import ChannelLipschitzness
    from bdbench_mitigations.ep import EntropyPruning
    from bdbench_mitigations.fine_pruning import FinePruning
    from bdbench_mitigations.fine_tuning import FineTuning
    from bdbench_mitigations.ft_sam import SharpnessAwareFineTuning
    from bdbench_mitigations.i_bau import ImplicitAdversarialUnlearning
    from bdbench_mitigations.nad import NeuralAttentionDistillation
    from bdbench_mitigations.none import NoDefense
    from bdbench_mitigations.rnp import ReconstructiveNeuronPruning

    return [
        AdversarialNeuronPruning,
        BatchNormalizationPruning,
        ChannelLipschitzness,
        EntropyPruning,
        FinePruning,
        FineTuning,
        SharpnessAwareFineTuning,
        ImplicitAdversarialUnlearning,
        NeuralAttentionDistillation,
        NoDefense,
        ReconstructiveNeuronPruning,
    ]
