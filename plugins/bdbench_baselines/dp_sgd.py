"""DP-SGD: no example may pull the weights further than another, so that a few poisons cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench import Batch, RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class DPSGD(RobustTraining):
    """Plain training with shaped gradients: that of each example is clipped, and their sum gets noise (Hong et al. 4).

    A step descends (sum of g min(1, clip / |g|) + N(0, (noise clip)^2)) / b, with g the gradient of one of its b
    examples, by the recipe's optimizer, rates and augmentation. Batches are shuffled, not sampled: no privacy is
    claimed. Both defaults are those of Borgnia et al. (ICASSP 2021), who compare with it, and lie within what the paper
    tries (clip .1 to 8, noise clip .001 to 1).

    Batch norm makes an example's gradient depend on the others, so that clipping it bounds nothing; and frozen
    statistics would have to come from the same poisoned set. The networks of the paper have none. Here each batch norm
    becomes a group norm of at most 8 groups, as is usual for DP-SGD: the model differs from the victim's in this.
    """

    name = "dp-sgd"
    paper = (
        "Hong et al., On the Effectiveness of Mitigating Data Poisoning Attacks with Gradient Shaping, arXiv:2002.11497"
    )
    assumption = "Gradients of poisons are longer than those of clean examples and point elsewhere."
    clip: float = param(1.0, help="the norm that no example's gradient exceeds", low=0, exclusive=True)
    noise: float = param(0.01, help="deviation of the noise on the sum of a batch / clip", low=0)

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model, of the victim's architecture but for its batch norms."""
        from bdbench_baselines.shaping import shaped, without_batch_norm

        smoothing = tools.recipe.label_smoothing

        def loss(batch: Batch) -> torch.Tensor:
            return shaped(batch.network, batch.x, batch.labels, self.clip, self.noise, smoothing)

        start = tools.victim.replace(without_batch_norm(tools.network(self.name)))
        known = {"dp-sgd": self.config(), "smoothing": smoothing}
        return tools.train(view.images, view.labels, self.name, start=start, loss=loss, kept=known)
