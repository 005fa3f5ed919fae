"""Strong augmentation: examples are mixed in pairs, so that a trigger no longer comes whole and with one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bdbench import Batch, RobustTraining, Tools, TrainingView, param

if TYPE_CHECKING:
    import torch

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class StrongAugmentation(RobustTraining):
    """Plain training on pairs of examples, whose labels share the loss as their pixels share the image (sec. 2).

    mix: cutmix puts a rectangle of another image of the batch into each; mixup averages the two by lambda and
    1 - lambda. lambda is drawn from Beta(alpha, alpha), once for a batch; of CutMix it becomes the share of the pixels
    that stay. As in the authors' code, half of the batches are mixed by CutMix, and all of them by mixup. The recipe's
    own augmentation comes first, and its smoothing of labels stays. The paper's mixup of four images and its MaxUp are
    left out: they are there for poisons without a trigger.
    """

    name = "augmentation"
    paper = (
        "Borgnia et al., Strong Data Augmentation Sanitizes Poisoning and Backdoor Attacks Without an Accuracy "
        "Tradeoff, ICASSP 2021"
    )
    assumption = "The backdoor is only learnt from triggers that are seen whole, undiluted, and with the target alone."
    mix: Literal["cutmix", "mixup"] = param("cutmix", help="how: a rectangle of another image, or the mean of two")
    alpha: float = param(1.0, help="of Beta(alpha, alpha), the law of lambda", low=0, exclusive=True)
    share: float | None = param(
        None, help="of the batches, how many are mixed (none: half by cutmix, all by mixup)", low=0, high=1
    )

    def train(self, view: TrainingView, tools: Tools) -> Victim:
        """The model, of the victim's architecture."""
        known = {"augmentation": self.config(), "smoothing": tools.recipe.label_smoothing}
        share = (0.5 if self.mix == "cutmix" else 1.0) if self.share is None else self.share

        def loss(batch: Batch) -> torch.Tensor:
            import torch
            from torch.nn.functional import cross_entropy

            # Drawn on the CPU, so that they are the same on every device.
            mixes = float(torch.rand(())) < share
            kept = float(torch.distributions.Beta(self.alpha, self.alpha).sample()) if mixes else 1.0
            other = torch.randperm(len(batch.x)).to(batch.x.device)
            x, kept = (cut if self.mix == "cutmix" else averaged)(batch.x, batch.x[other], kept)
            logits, smoothing = batch.network(x), tools.recipe.label_smoothing
            own = cross_entropy(logits, batch.labels, label_smoothing=smoothing)
            return kept * own + (1 - kept) * cross_entropy(logits, batch.labels[other], label_smoothing=smoothing)

        return tools.train(view.images, view.labels, self.name, loss=loss, kept=known)


def averaged(x: torch.Tensor, others: torch.Tensor, kept: float) -> tuple[torch.Tensor, float]:
    """Mixup of (b, C, H, W): the weighted mean, and ``kept``, the weight of x."""
    return kept * x + (1 - kept) * others, kept


def cut(x: torch.Tensor, others: torch.Tensor, kept: float) -> tuple[torch.Tensor, float]:
    """CutMix of (b, C, H, W): x with one rectangle of the others, and the share of the pixels that stay.

    The rectangle has 1 - kept of the pixels where it does not reach over the edge; its centre is drawn uniformly.
    """
    import torch

    spans = []
    for side in x.shape[2:]:
        half = round(side * (1 - kept) ** 0.5) / 2
        centre = int(torch.randint(side, ())) + 0.5
        spans.append(slice(max(0, round(centre - half)), min(side, round(centre + half))))
    mixed = x.clone()
    mixed[:, :, spans[0], spans[1]] = others[:, :, spans[0], spans[1]]
    area = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return mixed, 1 - area / (x.shape[2] * x.shape[3])
