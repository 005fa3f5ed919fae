"""The batched ensemble against the plain loop, in one run: ``pytest tests/benchmarks --benchmark-only``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bdbench_datamodel.ensemble import SurrogateRecipe, draw_subsets, train_margins
from bdbench_datamodel.surrogates import BatchedMLP

MODELS = 20
RECIPE = SurrogateRecipe(epochs=15, batch_size=16, lr=0.05)


def _work() -> tuple[BatchedMLP, torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    network = BatchedMLP((8, 8, 1), 10, 128)
    images = rng.integers(0, 256, (1437, 8, 8, 1)).astype(np.uint8)
    return (
        network,
        network.prepare(images),
        torch.from_numpy(rng.integers(0, 10, 1437)),
        draw_subsets(1437, MODELS, 0.2, rng),
    )


def batched() -> None:
    network, x, y, masks = _work()
    train_margins(network, x, y, masks, RECIPE, 0)


def plain_loop() -> None:
    """What one would write first: an ``nn.Sequential`` and a ``DataLoader``-free loop for each subset."""
    _, x, y, masks = _work()
    for mask in masks:
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=RECIPE.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        members = torch.from_numpy(np.flatnonzero(mask))
        for _ in range(RECIPE.epochs):
            for index in members[torch.randperm(len(members))].split(RECIPE.batch_size):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
        with torch.no_grad():
            model(x)


@pytest.mark.benchmark(group=f"{MODELS} digit networks")
@pytest.mark.parametrize("function", [batched, plain_loop])
def test_ensemble(benchmark: Any, function: Callable[[], None]) -> None:
    benchmark.pedantic(function, rounds=3, warmup_rounds=1)
