"""The batched ensemble against the plain loop, in one run: ``pytest tests/benchmarks --benchmark-only -n 0``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bdbench_datamodel.ensemble import SurrogateRecipe, draw_subsets, train_margins, train_parameters
from bdbench_datamodel.surrogates import BatchedMLP, BatchedPatchNet

MODELS = 100
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


def _train_plainly(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, mask: np.ndarray, recipe: SurrogateRecipe
) -> None:
    """One network on its subset, then its outputs on all examples."""
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    members = torch.from_numpy(np.flatnonzero(mask))
    for _ in range(recipe.epochs):
        for index in members[torch.randperm(len(members))].split(recipe.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    with torch.no_grad():
        model(x)


def plain_loop() -> None:
    """What one would write first: an ``nn.Sequential`` and a ``DataLoader``-free loop for each subset."""
    _, x, y, masks = _work()
    for mask in masks:
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        _train_plainly(model, x, y, mask, RECIPE)


@pytest.mark.benchmark(group=f"{MODELS} digit networks")
@pytest.mark.parametrize("function", [batched, plain_loop])
def test_ensemble(benchmark: Any, function: Callable[[], None]) -> None:
    benchmark.pedantic(function, rounds=3, warmup_rounds=1)


PATCH_MODELS = 20
PATCH_RECIPE = SurrogateRecipe(epochs=20, batch_size=25, lr=0.1, precision="bfloat16")


@pytest.fixture(scope="module")
def colour() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """5,000 images like those of CIFAR-10, labels, and the subsets of a chunk."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5000, 32, 32, 3)).astype(np.uint8)
    return images, rng.integers(0, 10, 5000), draw_subsets(5000, PATCH_MODELS, 0.2, rng)


def batched_patches(images: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> None:
    """With what an ensemble does once, to whiten the patches, for every chunk."""
    network = BatchedPatchNet((32, 32, 3), 10, 64)
    train_margins(network, network.prepare(images), torch.from_numpy(labels), masks, PATCH_RECIPE, 0)


def plain_convolutions(images: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> None:
    """The same layers, subsets, batches and epochs as ``nn.Conv2d`` and friends, one network after another."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.from_numpy(labels)
    for mask in masks:
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 64, 5, stride=3, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(3),
            torch.nn.Flatten(),
            torch.nn.Linear(9 * 64, 10),
        )
        _train_plainly(model, x, y, mask, PATCH_RECIPE)


@pytest.mark.benchmark(group=f"{PATCH_MODELS} networks of patches, {PATCH_RECIPE.epochs} epochs")
@pytest.mark.parametrize("function", [batched_patches, plain_convolutions])
def test_patches(benchmark: Any, function: Callable[..., None], colour: tuple[np.ndarray, ...]) -> None:
    benchmark.pedantic(function, args=colour, rounds=2)


@pytest.mark.benchmark(group="patches, share of the matrix-multiply peak")
def test_share_of_the_peak(benchmark: Any, colour: tuple[np.ndarray, ...]) -> None:
    """Extra: GFLOP/s of the training's own matrix products, and of products of 2,048 in the same precision."""
    images, labels, masks = colour
    network = BatchedPatchNet((32, 32, 3), 10, 64)
    inputs, targets = network.prepare(images), torch.from_numpy(labels)
    benchmark.pedantic(train_parameters, args=(network, inputs, targets, masks, PATCH_RECIPE, 0), rounds=3)
    cells = network.rows * network.columns
    forward = 2 * network.hidden * (cells * network.inputs + network.grid**2 * 10)
    # Backward: the weights' gradients once more as much, and what flows back through the second layer.
    passed = 2 * forward + 2 * network.hidden * network.grid**2 * 10
    done = passed * masks.sum() * PATCH_RECIPE.epochs
    square = torch.randn(2048, 2048).bfloat16()
    seconds = min(_seconds(lambda: square @ square) for _ in range(20))
    benchmark.extra_info["GFLOP/s"] = round(done / benchmark.stats.stats.median / 1e9)
    benchmark.extra_info["peak GFLOP/s"] = round(2 * 2048**3 / seconds / 1e9)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
