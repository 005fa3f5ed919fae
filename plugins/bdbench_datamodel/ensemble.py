"""Many small networks on random subsets of the training set, trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from bdbench_datamodel.surrogates import BatchedNetwork, Scratch

# Of a forward pass: about what a processor's caches hold; elsewhere what makes launching kernels a small part of it.
_BLOCK_FLOATS, _DEVICE_BLOCK_FLOATS = 4e6, 2e8
# Of a step of all networks: the same of a processor, and the share of a GPU's free memory.
_CHUNK_FLOATS, _CHUNK_SHARE = 16e6, 0.25
# More at once are no faster, and what is trained at once is what is lost when a run is broken off.
_LARGEST_CHUNK, _LARGEST_DEVICE_CHUNK = 100, 300


@dataclass(frozen=True)
class SurrogateRecipe:
    """How the networks of an ensemble are trained: SGD with Nesterov momentum, a triangular rate."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    precision: Literal["float32", "bfloat16"] = "float32"

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 1 to ``steps``: rising for the first part, ``warmup``, then falling to about 0."""
        done = step / (steps + 1)
        return self.lr * min(done / self.warmup, (1 - done) / (1 - self.warmup))


class Trainer(Protocol):
    """The networks of an ensemble, and how they are trained: together, or one after another."""

    @property
    def recipe(self) -> SurrogateRecipe:
        """How each is trained."""

    def prepare(self, images: np.ndarray, device: str) -> torch.Tensor:
        """uint8 (n, H, W, C) -> what ``margins`` takes as inputs, (n, ...), on the device."""

    def margins(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        masks: np.ndarray,
        seed: int | Sequence[int],
        rivals: np.ndarray | None = None,
    ) -> np.ndarray:
        """float32 (M, n): of every example under the network of each of M subsets, as in ``train_margins``."""

    def chunk(self, device: str) -> int:
        """How many networks to train in one call."""

    def config(self) -> dict[str, Any]:
        """What their margins are known by, beside the data, subsets and seeds."""


@dataclass(frozen=True)
class BatchedTrainer:
    """All networks of a call together, as batched matrix products."""

    network: BatchedNetwork
    recipe: SurrogateRecipe

    def prepare(self, images: np.ndarray, device: str) -> torch.Tensor:
        """float32 (n, ...), as the network's ``prepare``."""
        return self.network.prepare(images, device)

    def margins(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        masks: np.ndarray,
        seed: int | Sequence[int],
        rivals: np.ndarray | None = None,
    ) -> np.ndarray:
        """As ``train_margins``."""
        return train_margins(self.network, inputs, labels, masks, self.recipe, seed, rivals)

    def chunk(self, device: str) -> int:
        """As many as keep a step's numbers in about the size of a processor's caches, or of a GPU's free memory."""
        floats = self.recipe.batch_size * self.network.floats_per_example()
        if not device.startswith("cuda"):
            return int(np.clip(_CHUNK_FLOATS / floats, 4, _LARGEST_CHUNK))
        free, _ = torch.cuda.mem_get_info(device)
        return int(np.clip(_CHUNK_SHARE * free / (4 * floats), 4, _LARGEST_DEVICE_CHUNK))

    def config(self) -> dict[str, Any]:
        """Network, units and recipe."""
        return {"net": type(self.network).__name__, "hidden": self.network.hidden, "recipe": asdict(self.recipe)}


def draw_subsets(examples: int, models: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """bool (models, examples): each row an independent uniform subset of exactly ``round(alpha n)`` examples."""
    size = round(alpha * examples)
    masks = np.zeros((models, examples), bool)
    for row in masks:
        row[rng.choice(examples, size, replace=False)] = True
    return masks


def antithetic_subsets(examples: int, models: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """bool (models, examples): as ``draw_subsets``, but each odd row is the complement of the one before it.

    Only for alpha = 1/2 of an even number of examples. A pair's difference is free of what both share, whatever
    the subset (the method of antithetic variates).
    """
    masks = draw_subsets(examples, models, alpha, rng)
    masks[1::2] = ~masks[: models - models % 2 : 2]
    return masks


def held_examples(masks: np.ndarray) -> torch.Tensor:
    """bool (M, n), rows of equal size k -> int64 (M, k): which examples each row holds."""
    return torch.from_numpy(np.stack([np.flatnonzero(row) for row in masks]))


def train_margins(
    network: BatchedNetwork,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    masks: np.ndarray,
    recipe: SurrogateRecipe,
    seed: int | Sequence[int],
    rivals: np.ndarray | None = None,
) -> np.ndarray:
    """Train one network for each row of ``masks`` and return every example's margin under each.

    inputs: (n, ...) from ``network.prepare``, and labels int64 (n,), on the device to work on; masks: bool
    (M, n), rows of equal size. Returns float32 (M, n): the correct logit minus log-sum-exp of the others. rivals: int16
    (M, n) to be filled with the most probable of the other labels.

    seed: one for all models, or one for each (M,). Models of one seed start from one initialisation and meet the
    examples in one order, each skipping what it does not hold: what differs between them is then their subsets
    alone. A model's result does not depend on which others are trained beside it, beyond rounding.
    """
    parameters = train_parameters(network, inputs, labels, masks, recipe, seed)
    inputs = inputs.bfloat16() if recipe.precision == "bfloat16" else inputs
    return _margins(network, parameters, inputs, labels, rivals)


def train_parameters(
    network: BatchedNetwork,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    masks: np.ndarray,
    recipe: SurrogateRecipe,
    seed: int | Sequence[int],
) -> list[torch.Tensor]:
    """As ``train_margins``, but the parameters of the M networks: float tensors with a leading axis for the model."""
    device = inputs.device
    models = len(masks)
    seeds = [seed] * models if isinstance(seed, int) else list(seed)
    generators = {s: torch.Generator().manual_seed(s) for s in seeds}
    members = held_examples(masks).to(device)
    initial = {s: network.initial(generator) for s, generator in generators.items()}
    parameters = [
        torch.stack(same).to(device).requires_grad_() for same in zip(*(initial[s] for s in seeds), strict=True)
    ]
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if recipe.precision == "bfloat16":
        inputs = inputs.bfloat16()
    batches = -(-members.shape[1] // recipe.batch_size)
    steps, step = recipe.epochs * batches, 0
    # Each order of all examples goes to the device once, for the models that share it.
    places = {s: place for place, s in enumerate(generators)}
    whose = torch.tensor([places[s] for s in seeds], device=device)
    scratch = Scratch()
    for _ in range(recipe.epochs):
        rankings = torch.stack([torch.randperm(len(labels), generator=g) for g in generators.values()]).to(device)
        ranks = rankings.expand(models, -1) if len(rankings) == 1 else rankings[whose]
        order = members.gather(1, ranks.gather(1, members).argsort(1))
        for index in order.tensor_split(batches, 1):
            step += 1
            optimizer.param_groups[0]["lr"] = recipe.rate(step, steps)
            place = scratch("batch", (index.numel(), *inputs.shape[1:]), inputs)
            batch = torch.index_select(inputs, 0, index.flatten(), out=place).view(*index.shape, *inputs.shape[1:])
            logits = network.logits(parameters, batch, scratch)
            # Each model's loss is a mean over its own batch; the sum over models keeps them independent.
            loss = F.cross_entropy(logits.flatten(0, 1), labels[index].flatten(), reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            (loss / index.shape[1]).backward()
            optimizer.step()
    return [p.detach() for p in parameters]


@torch.no_grad()
def _margins(
    network: BatchedNetwork,
    parameters: list[torch.Tensor],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    rivals: np.ndarray | None,
) -> np.ndarray:
    """One network after another: here all see the same examples, and a batched product would copy them for each."""
    floats = _BLOCK_FLOATS if inputs.device.type == "cpu" else _DEVICE_BLOCK_FLOATS
    block = max(1, int(floats / network.floats_per_example()))
    # Fetched from the device at the end: each fetch waits for all that is under way.
    out, scratch = torch.empty(len(parameters[0]), len(labels), device=inputs.device), Scratch()
    named = None if rivals is None else torch.empty(out.shape, dtype=torch.int16, device=inputs.device)
    for place, single in enumerate(zip(*(p.split(1) for p in parameters), strict=True)):
        for start in range(0, len(labels), block):
            part = slice(start, start + block)
            logits = network.logits(list(single), inputs[None, part], scratch)[0]
            out[place, part] = margins(logits, labels[part])
            if named is not None:
                named[place, part] = rivals_of(logits, labels[part])
    if rivals is not None and named is not None:
        rivals[:] = named.cpu().numpy()
    return out.cpu().numpy()


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(..., C), (...) -> (...): the correct logit minus log-sum-exp of the others, which is the log odds
    of the correct label (Khaddaj et al. 2023, app. B; Park et al. 2023, sec. 3).
    """
    index = labels.unsqueeze(-1)
    correct = logits.gather(-1, index).squeeze(-1)
    return correct - logits.scatter(-1, index, -torch.inf).logsumexp(-1)


def rivals_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(..., C), (...) -> int64 (...): the most probable of the other labels."""
    return logits.scatter(-1, labels.unsqueeze(-1), -torch.inf).argmax(-1)
