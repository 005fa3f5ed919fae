"""Gradients of single examples, clipped and with noise, for a trainer that descends a scalar."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from bdbench import BdbenchError

_GROUPS = 8
# So many numbers of gradients are in memory at once: 512 MB.
_AT_ONCE = 2**27

Gradients = dict[str, torch.Tensor]


def without_batch_norm(network: nn.Module) -> nn.Module:
    """The network with a group norm in place of each batch norm, changed in place; scales and shifts stay."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, _group_norm(module))
    return network


def _group_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.GroupNorm:
    # A channel alone in its group may be a single number, of which nothing is left.
    groups = math.gcd(_GROUPS, norm.num_features) if norm.num_features > _GROUPS else 1
    made = nn.GroupNorm(groups, norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        made.load_state_dict({"weight": norm.weight, "bias": norm.bias})
        made.to(norm.weight.device)
    return made


def example_gradients(network: nn.Module, x: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> Gradients:
    """Of the cross-entropy of each of x (b, C, H, W) with its label, by parameter name: (b, ...).

    Raises BdbenchError for a network that cannot be taken apart so.
    """

    def one(parameters: Gradients, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(network, {**parameters, **buffers}, (image[None],))
        return cross_entropy(logits, label[None], label_smoothing=smoothing)

    parameters = {name: p.detach() for name, p in network.named_parameters()}
    buffers = {name: b.detach() for name, b in network.named_buffers()}
    try:
        return vmap(grad(one), in_dims=(None, 0, 0), randomness="different")(parameters, x, labels)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise BdbenchError(f"the model has no gradients of single examples: expected one that has ({reason})") from None


def clipped_sum(gradients: Gradients, clip: float) -> Gradients:
    """The sum of the examples' gradients (b, ...), each shortened to the norm ``clip`` over all parameters."""
    norms = torch.stack([g.flatten(1).float().norm(dim=1) for g in gradients.values()]).norm(dim=0)
    weights = (clip / norms.clamp(min=1e-12)).clamp(max=1)
    return {name: torch.einsum("b...,b->...", g.float(), weights) for name, g in gradients.items()}


def shaped(
    network: nn.Module, x: torch.Tensor, labels: torch.Tensor, clip: float, noise: float, smoothing: float = 0.0
) -> torch.Tensor:
    """A scalar whose gradient is the mean of the clipped gradients of a batch, with noise; its value says nothing.

    noise: the deviation of what is added to each number of their sum, over clip.
    """
    parameters = dict(network.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    chunk = max(1, _AT_ONCE // sum(p.numel() for p in parameters.values()))
    for images, own in zip(x.split(chunk), labels.split(chunk), strict=True):
        for name, part in clipped_sum(example_gradients(network, images, own, smoothing), clip).items():
            total[name] += part
    terms = [(p * (total[name] + noise * clip * torch.randn_like(p))).sum() for name, p in parameters.items()]
    return torch.stack(terms).sum() / len(x)
