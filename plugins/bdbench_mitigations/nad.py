"""Neural attention distillation: the victim learns where to look from a teacher, which is itself fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Batch, BdbenchError, Loss, Mitigation, Tools, param
from bdbench_mitigations.clean_part import tuned, tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class NeuralAttentionDistillation(Mitigation):
    """Fine-tunes a teacher, then the victim on cross-entropy + beta x the distance of its attention to the teacher's.

    The attention of a stage is the sum over channels of |activation|^power, of norm 1 for each image; the distance is
    the mean square between maps (section 3, with the mean of the authors' code, for which the betas are). Stages are
    what a ResNet's groups are: the last map of each size, of other modules than poolings and normalisations, and of
    these the last as many as there are betas; with fewer stages than betas the last betas count. Betas are those that
    BackdoorBench has, low to high; the authors' released ones, 0, 0 and 5000, are for one attack. Passes and rate of
    the victim are those of this package's fine-tuning, and the teacher gets half of the passes, as there (10 and 20).
    """

    name = "nad"
    paper = "Li et al., Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks, ICLR 2021"
    assumption = (
        "The trigger draws the attention of inner layers, and fine-tuning on clean examples draws it back in part."
    )
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to train on (none: all that are set apart)", low=1)
    betas: tuple[float, ...] = param((500.0, 1000.0, 1000.0), help="weights of the stages, low to high", low=0)
    power: float = param(2.0, help="exponent of an activation in the attention", low=0, exclusive=True)
    teacher: int = param(50, help="passes over the clean examples for the teacher", low=1)
    epochs: int = param(100, help="passes for the victim", low=1)
    lr: float = param(1.0, help="peak learning rate of both / the recipe's", low=0, exclusive=True)

    def repair(self, tools: Tools) -> Victim:
        """The distilled model. Raises BdbenchError for a network without maps between its layers."""
        clean = tools.clean_examples(self.clean)
        names = stages(tools.victim, tools.shape)[-len(self.betas) :]
        teacher = tuned(tools, clean, "teacher", tools.victim, tuning(tools.recipe, self.teacher, self.lr))
        recipe = tuning(tools.recipe, self.epochs, self.lr)
        loss = self._loss(teacher.network.eval().requires_grad_(False), names, recipe.label_smoothing)
        name = f"distil:{self.betas}:{self.power}:{self.teacher}"
        return tuned(tools, clean, name, tools.victim, recipe, loss)

    def _loss(self, teacher: nn.Module, names: Sequence[str], smoothing: float) -> Loss:
        import torch
        from torch.nn.functional import cross_entropy, mse_loss

        betas = self.betas[-len(names) :]

        def loss(batch: Batch) -> torch.Tensor:
            logits, maps = attended(batch.network, batch.x, names, self.power)
            with torch.no_grad():
                _, wanted = attended(teacher, batch.x, names, self.power)
            apart = [beta * mse_loss(m, w) for beta, m, w in zip(betas, maps, wanted, strict=True)]
            return cross_entropy(logits, batch.labels, label_smoothing=smoothing) + torch.stack(apart).sum()

        return loss


def stages(victim: Victim, shape: tuple[int, int, int]) -> list[str]:
    """The names of the modules that end a stage for images of ``shape`` (H, W, C), in order of use.

    Raises BdbenchError if there are none.
    """
    import torch
    from torch import nn

    from bdbench_mitigations.channels import watched

    ends: dict[tuple[int, ...], str] = {}

    def saw(name: str, module: nn.Module, given: object, output: object) -> None:
        kind = type(module).__name__
        # A normalisation at the head of a block is of the next stage, though of the size of the one before.
        if not isinstance(output, torch.Tensor) or output.ndim != 4 or "Pool" in kind or "Norm" in kind:
            return
        size = tuple(output.shape[2:])
        if size != (1, 1):
            # Taken out first, so that the order is that of the last use.
            ends.pop(size, None)
            ends[size] = name

    with watched(victim.network, nn.Module, saw):
        victim.logits(np.zeros((2, *shape), np.uint8))
    if not ends:
        raise BdbenchError("the model makes no maps of more than one pixel: expected one with convolutions of images")
    return list(ends.values())


def attended(
    network: nn.Module, x: torch.Tensor, names: Sequence[str], power: float
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits (b, K) of normalised images, and the attention of each module in ``names``, (b, pixels), of norm 1."""
    from torch import nn
    from torch.nn.functional import normalize

    from bdbench_mitigations.channels import watched

    found: dict[str, torch.Tensor] = {}

    def saw(name: str, module: nn.Module, given: object, output: torch.Tensor) -> None:
        if name in names:
            found[name] = normalize(output.abs().pow(power).sum(1).flatten(1), dim=1, eps=1e-6)

    with watched(network, nn.Module, saw):
        logits = network(x)
    return logits, [found[name] for name in names]
