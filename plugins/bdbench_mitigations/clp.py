"""Channel Lipschitzness-based pruning: channels that small changes can move far are pruned, without any data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import Mitigation, Tools, param

if TYPE_CHECKING:
    from bdbench import Victim
    from bdbench_mitigations.channels import Layer


@dataclass(frozen=True, kw_only=True)
class ChannelLipschitzness(Mitigation):
    """Prunes, in each layer, the channels whose Lipschitz bound is above the mean by ``u`` standard deviations.

    The bound of a channel (UCLC) is the spectral norm of its kernel, as a matrix of input channels x positions, times
    |gamma / sigma| of the batch normalisation that follows. As in the authors' code, what is pruned is scale and shift
    of the normalisation. A normalisation follows where it is given the convolution's own output, which running the
    network shows, while the authors' code pairs by the order of the modules; a convolution that nothing normalises,
    of which that code says nothing, counts by its kernel alone. Of n channels none can stand out by more than
    (n - 1) / sqrt(n) deviations: with u = 3 a layer has to have 11.
    """

    name = "clp"
    paper = "Zheng et al., Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022"
    assumption = (
        "The backdoor is in a few channels that are far more sensitive to their input than others of the layer."
    )
    u: float = param(3.0, help="standard deviations above a layer's mean from which a channel is pruned", low=0)

    def repair(self, tools: Tools) -> Victim:
        """The pruned model. Raises BdbenchError for a model without convolutions."""
        from bdbench_mitigations.channels import layers, outlying, pruned

        bounds = {layer.name: lipschitz(layer) for layer in layers(tools.victim, tools.shape)}
        return pruned(tools.victim, {name: outlying(b, self.u) for name, b in bounds.items()}, biases=True)


def lipschitz(layer: Layer) -> np.ndarray:
    """The Lipschitz bound of each channel of a layer, float64 (channels,)."""
    kernels = layer.convolution.weight.detach().double().flatten(2).cpu().numpy()
    bounds = np.linalg.norm(kernels, ord=2, axis=(1, 2))
    norm = layer.norm
    if norm is None:
        return bounds
    assert norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    return bounds * (norm.weight.detach().double() / deviation).abs().cpu().numpy()
