"""Features that are learnt without labels, or with some: views of one image are alike, those of others are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bdbench import Batch, Tools, TrainingView, Victim
from bdbench_baselines.views import Views

Alike = Callable[[Batch], torch.Tensor]


def contrast(z: torch.Tensor, temperature: float, alike: torch.Tensor | None = None) -> torch.Tensor:
    """How little, on average, the views of an image resemble each other more than those of other images.

    z: (2 b, d), the first and then the second views of b images. The loss of a view is the mean, over its positives, of
    -log softmax(cos / temperature) among all other views. Positives are the image's other view and, if ``alike``, bool
    (b, b), holds another image to be of the row's class, both views of that (Chen et al. 2020, eq. 1; Khosla et al.
    2020, eq. 2).
    """
    b = len(z) // 2
    z = F.normalize(z.float(), dim=1)
    itself = torch.eye(2 * b, dtype=torch.bool, device=z.device)
    log_share = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
    same = torch.eye(b, dtype=torch.bool, device=z.device)
    positive = (same if alike is None else alike | same).repeat(2, 2) & ~itself
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()


class Projected(nn.Module):
    """A network, and on its features (b, width) a head of two layers to (b, 128), in which views are compared."""

    def __init__(self, network: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, 128)."""
        return self.head(self.network.features(x))  # type: ignore[operator]


def views_of(tools: Tools) -> Views:
    """Random changes of what the victim's network, or one that is trained from it, takes."""
    return Views(tools.victim.mean, tools.victim.std, tools.recipe.flip)


def pretrained(
    view: TrainingView,
    tools: Tools,
    *,
    epochs: int,
    temperature: float,
    blur: bool = True,
    alike: Alike | None = None,
    known: dict[str, Any] | None = None,
) -> Victim:
    """A new network of the victim's architecture, of which all but the last layer has learnt the contrast.

    By the recipe's optimizer, rates and batches, without label smoothing. alike: of a batch, which images are of one
    class; known: what that depends on.
    """
    views, victim = views_of(tools), tools.victim
    width = victim.features(view.images[:1]).shape[1]
    network = Projected(tools.network("contrast"), width, tools.streams.integer("head"))

    def loss(batch: Batch) -> torch.Tensor:
        z = batch.network(torch.cat([views.strong(batch.x, blur) for _ in range(2)]))
        return contrast(z, temperature, alike(batch) if alike else None)

    trained = tools.train(
        view.images,
        view.labels,
        "contrast",
        start=victim.replace(network),
        # The views are moved already.
        recipe=dataclasses.replace(tools.recipe, epochs=epochs, flip=False, crop_padding=0),
        loss=loss,
        kept={"contrast": temperature, "blur": blur, "flip": tools.recipe.flip, **(known or {})},
    )
    return trained.replace(trained.network.network)  # type: ignore[arg-type]


def head_only(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Lets nothing learn but what comes after the features; changed in place. x: (b, C, H, W), any."""
    network.eval()
    network.requires_grad_(True)
    network.zero_grad(set_to_none=True)
    network.features(x).sum().backward()  # type: ignore[operator]
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is None)
    network.zero_grad(set_to_none=True)
    return network


def headed(
    features: Victim,
    images: Any,
    labels: Any,
    tools: Tools,
    loss: Callable[[torch.Tensor, Batch], torch.Tensor],
    *,
    epochs: int,
    lr: float,
    known: dict[str, Any],
) -> Victim:
    """The network with another last layer, trained by AdamW on ``loss``, of logits and batch; the features stay."""
    shape = (1, tools.shape[2], *tools.shape[:2])
    network = head_only(features.network, torch.zeros(shape, device=tools.device))

    def of_batch(batch: Batch) -> torch.Tensor:
        # Statistics of batches are features' own, too.
        batch.network.eval()
        return loss(batch.network(batch.x), batch)

    recipe = dataclasses.replace(tools.recipe, epochs=epochs, optimizer="adamw", lr=lr, weight_decay=0.0)
    start = features.replace(network)
    trained = tools.train(images, labels, "head", start=start, recipe=recipe, loss=of_batch, kept=known)
    trained.network.requires_grad_(True)
    return trained
