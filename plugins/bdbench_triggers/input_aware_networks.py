"""The networks of input-aware triggers, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bdbench import Split, State, Victim, Workshop
from bdbench_triggers.crafting import pixels
from bdbench_triggers.generators import Generator, changed, seeded, with_weights
from bdbench_triggers.loops import Learner, shuffled, stepped

if TYPE_CHECKING:
    from bdbench_triggers.input_aware import InputAware

_TINY = 1e-7
_BETAS = (0.5, 0.9)
# Where the authors divide learning rates by ten, as shares of their 600 epochs, and of 25 for the mask.
_AT, _MASK_AT = (1 / 3, 1 / 2, 2 / 3, 5 / 6), (0.4, 0.8)

Made = Callable[[str, Callable[[], nn.Module]], nn.Module]


def networks(shape: tuple[int, ...], width: int | None, made: Made) -> tuple[nn.Module, nn.Module]:
    """Pattern and mask, of the authors' size unless ``width`` is given: for grey images half as wide, a level less.

    made: takes a name and a function that makes the network, and gives it its weights.
    """
    channels, grey = shape[-1], shape[-1] == 1
    wide, depth = width or (16 if grey else 32), 2 if grey or min(shape[:2]) < 16 else 3
    return (
        made("pattern", lambda: Generator(channels, channels, wide, depth, bounded=True)),
        made("mask", lambda: Generator(channels, 1, wide, depth, bounded=True)),
    )


def crafted(attack: InputAware, train: Split, tools: Workshop) -> tuple[nn.Module, nn.Module, Victim]:
    """Pattern, mask and victim, trained."""
    pattern, mask = networks(tools.shape, attack.width, lambda name, make: seeded(tools, name, make))
    learner = Learner(tools, train, "victim")
    _train_mask(attack, mask, learner.victim.std, train, tools)
    mask.eval().requires_grad_(False)
    return pattern, mask, _train_both(attack, pattern, mask, learner, tools)


def stamped(images: np.ndarray, sources: np.ndarray, state: State, width: int | None, device: str) -> np.ndarray:
    """uint8 images (n, H, W, C) with the triggers that are made for ``sources``, as many."""
    pattern, mask = networks(images.shape[1:], width, lambda name, make: with_weights(make(), state, name, device))
    return changed(lambda x, source: on(x, what(pattern, source), where(mask, source)), device, images, sources)


def what(pattern: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The pattern of each image, in 0..1."""
    made: torch.Tensor = pattern(x)
    return made.tanh() / 2 + 0.5


def where(mask: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Its mask, (b, 1, H, W) in 0..1 and nearly one of the two."""
    return (20 * what(mask, x) - 10).tanh() / 2 + 0.5


def on(x: torch.Tensor, pattern: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Images with patterns where masks are."""
    return x + (pattern - x) * mask


def alike(x: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """The diversity loss: how far apart neighbours are over how far apart is what was made of them."""
    apart, made_apart = ((t - t.roll(1, 0)).square().mean((1, 2, 3)) for t in (x, made))
    # The root has no gradient at 0.
    return (apart.sqrt() / ((made_apart + _TINY**2).sqrt() + _TINY)).mean()


def _train_mask(attack: InputAware, mask: nn.Module, std: np.ndarray, train: Split, tools: Workshop) -> None:
    # How far images are apart is told in deviations of a channel, std (C,): masks are the same at any contrast.
    unit = torch.from_numpy(std).to(tools.device)[:, None, None]
    optimizer = torch.optim.Adam(mask.parameters(), lr=attack.lr, betas=_BETAS)
    images = torch.from_numpy(np.array(train.images)).to(tools.device)

    def epoch(number: int, generator: torch.Generator) -> None:
        mask.train()
        optimizer.param_groups[0]["lr"] = attack.lr * stepped(number / attack.mask_epochs, _MASK_AT)
        for index in shuffled(len(images), tools.recipe.batch_size, generator):
            x = pixels(images[index.to(images.device)])
            made = where(mask, x)
            beyond = torch.relu(made - attack.density).mean()
            optimizer.zero_grad(set_to_none=True)
            (attack.density_weight * beyond + attack.diversity * alike(x / unit, made)).backward()
            optimizer.step()

    tools.loop("mask", {"mask": mask, "optimizer": optimizer}, attack.mask_epochs, epoch)


def _train_both(attack: InputAware, pattern: nn.Module, mask: nn.Module, learner: Learner, tools: Workshop) -> Victim:
    optimizer = torch.optim.Adam(pattern.parameters(), lr=attack.lr, betas=_BETAS)
    epochs = learner.recipe.epochs

    def epoch(number: int, generator: torch.Generator) -> None:
        pattern.train()
        optimizer.param_groups[0]["lr"] = attack.lr * stepped(number / epochs, _AT)
        for x, labels in learner.batches(number, generator):
            own = max(1, round(attack.rate * len(x)))
            both = min(len(x), own + round(attack.cover_rate * len(x)))
            patterns, masks = what(pattern, x[:both]), where(mask, x[:both])
            attacked = on(x[:own], patterns[:own], masks[:own])
            # An image that shows another's trigger keeps its label.
            crossed = on(x[own:both], patterns[own - 1 : both - 1], masks[own - 1 : both - 1])
            goal = torch.from_numpy(attack.goal(labels[:own].cpu().numpy(), tools.num_classes)).to(labels.device)
            loss = learner.loss(torch.cat([attacked, crossed, x[both:]]), torch.cat([goal, labels[own:]]))
            optimizer.zero_grad(set_to_none=True)
            learner.descend(loss + attack.diversity * alike(x[:own], patterns[:own]))
            optimizer.step()

    parts = {"pattern": pattern, "pattern optimizer": optimizer, **learner.parts}
    tools.loop("victim", parts, epochs, epoch)
    return learner.victim
