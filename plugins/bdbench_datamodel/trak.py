"""TRAK: a train-on-train matrix from the gradients of a few networks (Park et al. 2023, arXiv:2303.14186).

Of the margin f of an example z under parameters theta, phi(z) = P' grad f(z; theta) is a random projection to p
dimensions (their eq. 12). With Phi (n, p) the rows of all training examples and pi(z) the correct label's probability,

    W_ij = mean over networks of phi(z_i)' (Phi'Phi + penalty t I)^-1 phi(z_j), times the mean of 1 - pi(z_j),

t the mean eigenvalue of Phi'Phi. Without a penalty a projection of a good part of n dimensions fits noise, and
examples that are fit well, as poisons are, have all but vanishing weights 1 - pi.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bdbench_datamodel.ensemble import margins
from bdbench_datamodel.influence import Factors
from bdbench_datamodel.surrogates import BatchedNetwork, Parameters

# Gradients at once: about what a processor's caches hold.
_BATCH_FLOATS = 4e6


def trak(
    network: BatchedNetwork,
    checkpoints: Sequence[Parameters],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    dimension: int,
    penalty: float,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
    precision: torch.dtype = torch.float32,
) -> Factors:
    """W in factors of rank (checkpoints * dimension).

    checkpoints: each the parameters of one network, without the axis for models; inputs: (n, ...) from
    ``network.prepare``; labels: int64 (n,); dimension: p; precision: of the projection's product, whose rounding in
    bfloat16 is small beside the projection's own noise. ``advance`` counts checkpoints.
    """
    left, right, unfit = [], [], torch.zeros(len(labels), device=inputs.device)
    for index, parameters in enumerate(checkpoints):
        generator = torch.Generator().manual_seed((seed + index) % 2**63)
        features, doubt = projected(network, parameters, inputs, labels, dimension, generator, precision)
        exact = features.double()
        gram = exact.T @ exact
        gram.diagonal().add_(penalty * gram.trace() / dimension)
        left.append(torch.cholesky_solve(exact.T, torch.linalg.cholesky(gram)).T.float())
        right.append(features)
        unfit += doubt / len(checkpoints)
        advance(1)
    weighted = torch.cat(right, 1) * unfit[:, None] / len(checkpoints)
    return Factors(torch.cat(left, 1).cpu().numpy(), weighted.cpu().numpy())


def projected(
    network: BatchedNetwork,
    parameters: Parameters,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    dimension: int,
    generator: torch.Generator,
    precision: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """phi, float (n, dimension), scaled by dimension^-1/2, and 1 - pi, float (n,), under one network."""
    own = [p.detach().to(inputs.device) for p in parameters]
    sizes = [p.numel() for p in own]
    projection = torch.randn(sum(sizes), dimension, generator=generator) / dimension**0.5
    projection = projection.to(inputs.device, precision)

    def margin(weights: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return margins(network.logits([w.unsqueeze(0) for w in weights], x[None, None])[0, 0], y)

    gradients = torch.func.vmap(torch.func.grad_and_value(margin), in_dims=(None, 0, 0))
    features, doubt = [], []
    step = max(1, int(_BATCH_FLOATS / sum(sizes)))
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        gradient, value = gradients(own, inputs[part].float(), labels[part])
        flat = torch.cat([g.flatten(1).to(precision) for g in gradient], 1)
        features.append((flat @ projection).float())
        # The margin is the log odds of the correct label.
        doubt.append(torch.sigmoid(-value))
    return torch.cat(features), torch.cat(doubt)
