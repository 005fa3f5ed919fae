"""Networks that are trained together, alone or beside the victim, in pieces that outlive a kill."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdbench import Split, State, Victim, Workshop
from bdbench_triggers.generators import pixels, weights
from bdbench_triggers.trained import named, part

Part = nn.Module | torch.optim.Optimizer

# A loop is kept this many times: often enough to lose little, seldom enough for the disk.
_PIECES = 5


def shuffled(count: int, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Indices of the batches of an epoch; no last one of one example, which has no statistics."""
    return [index for index in torch.randperm(count, generator=generator).split(min(size, count)) if len(index) > 1]


def train_in_pieces(
    tools: Workshop, name: str, parts: Mapping[str, Part], epochs: int, epoch: Callable[[int, torch.Generator], None]
) -> None:
    """Call ``epoch(number, generator)`` for each epoch, keeping ``parts`` after each fifth of them.

    parts: all that the epochs change, by name: networks and optimizers. An epoch draws from its generator and from
    torch's global ones alone, which depend on ``name`` and its number, so that a run that goes on after a kill ends
    with the same numbers.
    """
    advance = tools.track(epochs, name)
    devices = [torch.device(tools.device)] if tools.device.startswith("cuda") else []
    ends = sorted({math.ceil(epochs * piece / _PIECES) for piece in range(_PIECES + 1)})
    for first, end in itertools.pairwise(ends):
        run: list[int] = []

        def make(first: int = first, end: int = end, run: list[int] = run) -> State:
            for number in range(first, end):
                seed = tools.streams.integer(f"{name}:{number}")
                with torch.random.fork_rng(devices=devices):
                    torch.manual_seed(seed)
                    epoch(number, torch.Generator().manual_seed(seed))
                run.append(number)
                advance(1)
            return {key: array for part, made in parts.items() for key, array in _arrays(part, made).items()}

        kept = tools.saved({"loop": name, "epochs": epochs, "end": end}, make)
        if not run:
            for part_name, made in parts.items():
                _bring_back(made, part(kept, part_name))
            advance(end - first)


def _arrays(name: str, made: Part) -> dict[str, np.ndarray]:
    if isinstance(made, nn.Module):
        return weights(made, name)
    state = made.state_dict()["state"]
    return named({f"{i}.{key}": t.cpu().numpy() for i, one in state.items() for key, t in one.items()}, name)


def _bring_back(made: Part, arrays: State) -> None:
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    if isinstance(made, nn.Module):
        made.load_state_dict(tensors)
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, what = key.partition(".")
        state.setdefault(int(index), {})[what] = tensor
    made.load_state_dict({"state": state, "param_groups": made.state_dict()["param_groups"]})


class Learner:
    """The victim, trained a step at a time by its own recipe, for an attacker who trains other networks beside it.

    The recipe's optimizer, learning rate, batches, augmentation and label smoothing, in float32. start: a victim to go
    on from; epochs: in place of the recipe's; parts: what a loop has to keep.
    """

    def __init__(
        self, tools: Workshop, train: Split, name: str, *, epochs: int | None = None, start: Victim | None = None
    ) -> None:
        self.recipe = recipe = replace(tools.recipe, epochs=epochs or tools.recipe.epochs, reduced=False)
        images = np.asarray(train.images)
        self.victim = tools.train(images, train.labels, name, start=start, recipe=replace(recipe, epochs=0))
        self.images = torch.from_numpy(np.array(images)).to(tools.device)
        self.labels = torch.from_numpy(np.array(train.labels)).to(tools.device)
        network = self.victim.network
        # As bdbench trains: scales and biases are not decayed.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        if recipe.optimizer == "sgd":
            momentum = recipe.momentum
            self._optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=momentum, nesterov=momentum > 0)
        self.parts: dict[str, Part] = {"victim": network, "victim optimizer": self._optimizer}
        self.logits = self.victim.module()

    def batches(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of an epoch, x float (b, C, H, W) in 0..1, augmented, and labels; each at the recipe's learning rate."""
        self.logits.train()
        indices = shuffled(len(self.labels), self.recipe.batch_size, generator)
        for i, index in enumerate(indices):
            done = (epoch * len(indices) + i + 1) / (self.recipe.epochs * len(indices) + 1)
            for group in self._optimizer.param_groups:
                group["lr"] = self.recipe.lr * _ramp(done, self.recipe.warmup)
            index = index.to(self.labels.device)
            yield self._augmented(pixels(self.images[index]), generator), self.labels[index]

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The recipe's cross-entropy on x, float (b, C, H, W) in 0..1."""
        return F.cross_entropy(self.logits(x), labels, label_smoothing=self.recipe.label_smoothing)

    def descend(self, loss: torch.Tensor) -> None:
        """One step of the victim; gradients of other networks are added to theirs."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _augmented(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, height, width = len(x), *x.shape[2:]
        if self.recipe.flip:
            flip = (torch.rand(count, generator=generator) < 0.5).to(x.device)
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
        if margin := self.recipe.crop_padding:
            rows, columns = torch.randint(2 * margin + 1, (2, count), generator=generator).to(x.device)
            windows = F.pad(x, [margin] * 4, mode="reflect").unfold(2, height, 1).unfold(3, width, 1)
            x = windows[torch.arange(count, device=x.device), :, rows, columns]
        return x


def _ramp(done: float, warmup: float) -> float:
    """Linear up to 1 over ``warmup`` of the way, then linear down."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def stepped(done: float, at: tuple[float, ...]) -> float:
    """A learning rate's share after ``done`` of the way: divided by ten at each of ``at``."""
    return 0.1 ** sum(done >= step for step in at)
