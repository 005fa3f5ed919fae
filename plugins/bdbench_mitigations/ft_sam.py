"""Fine-tuning with sharpness-aware minimisation: out of the minimum that the backdoor's large weights are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench import Batch, Mitigation, Tools, param
from bdbench_mitigations.clean_part import tuned, tuning

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class SharpnessAwareFineTuning(Mitigation):
    """Fine-tunes on clean examples by the gradient at the worst weights nearby, where near is relative to each weight.

    The gradient of the cross-entropy g is taken at w + e, e = rho |w|^2 g / norm(|w| g), elementwise: an ellipsoid that
    allows large weights, which the paper finds in the backdoor's neurons, more (equations 2 to 5). rho = 2 is the
    paper's for CIFAR-10, with label smoothing of .1 and 100 passes. Batch statistics at the worst weights are not kept,
    as in the authors' code. Optimiser and rate are those of the victim's recipe, as in this package's fine-tuning, of
    which it is the counterpart; the paper's are SGD at .01.
    """

    name = "ft-sam"
    paper = "Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023"
    assumption = "The neurons of the backdoor have large weights, which shrink where the loss is to be flat nearby."
    oracles = ("clean_set",)
    clean: int | None = param(None, help="clean examples to train on (none: all that are set apart)", low=1)
    epochs: int = param(100, help="passes over them", low=1)
    lr: float = param(1.0, help="peak learning rate / the recipe's", low=0, exclusive=True)
    rho: float = param(2.0, help="how far the worst weights are, relative to the weights", low=0)
    smoothing: float = param(0.1, help="label smoothing", low=0, high=1)

    def repair(self, tools: Tools) -> Victim:
        """The trained model. Raises BdbenchError if there are not as many clean examples."""
        recipe = tuning(tools.recipe, self.epochs, self.lr)
        name = f"ft-sam:{self.rho}:{self.smoothing}"
        return tuned(tools, tools.clean_examples(self.clean), name, tools.victim, recipe, self._loss)

    def _loss(self, batch: Batch) -> torch.Tensor:
        return sharp(batch.network, batch.x, batch.labels, self.rho, self.smoothing)


def sharp(
    network: nn.Module, x: torch.Tensor, labels: torch.Tensor, rho: float, smoothing: float = 0.0
) -> torch.Tensor:
    """The cross-entropy at the worst weights within ``rho``; its gradient is the one at those weights."""
    import torch
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    own = {name: p for name, p in network.named_parameters() if p.requires_grad}
    value = cross_entropy(network(x), labels, label_smoothing=smoothing)
    gradients = torch.autograd.grad(value, list(own.values()), materialize_grads=True, allow_unused=True)
    with torch.no_grad():
        norm = torch.stack([(p.abs() * g).norm() for p, g in zip(own.values(), gradients, strict=True)]).norm()
        steps = [rho * p**2 * g / (norm + 1e-12) for p, g in zip(own.values(), gradients, strict=True)]
    worst = {name: p + step for (name, p), step in zip(own.items(), steps, strict=True)}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    return cross_entropy(functional_call(network, {**worst, **buffers}, (x,)), labels, label_smoothing=smoothing)
