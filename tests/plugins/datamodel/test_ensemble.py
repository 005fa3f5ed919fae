from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bdbench_datamodel.ensemble import BatchedTrainer, SurrogateRecipe, draw_subsets, margins, train_margins
from bdbench_datamodel.options import floats_of_inputs
from bdbench_datamodel.surrogates import BatchedMLP, BatchedNetwork, BatchedPatchNet, Scratch


def test_subsets_have_exactly_their_size_and_are_uniform() -> None:
    masks = draw_subsets(20, 4000, 0.3, np.random.default_rng(0))
    assert (masks.sum(1) == 6).all()
    # Each example's share has standard deviation sqrt(.3 * .7 / 4000) = .0072.
    assert np.abs(masks.mean(0) - 0.3).max() < 5 * 0.0072


def test_margins_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    assert margins(logits, torch.tensor([2])).item() == pytest.approx(np.log(5 / 3))
    assert margins(logits, torch.tensor([0])).item() == pytest.approx(np.log(1 / 7))


def _one_by_one(
    network: BatchedNetwork, x: torch.Tensor, y: torch.Tensor, masks: np.ndarray, recipe: SurrogateRecipe, seed: int
) -> np.ndarray:
    """The plain loop: one ordinary model after another, with torch's own SGD and no batching of models."""
    out = []
    for mask in masks:
        generator = torch.Generator().manual_seed(seed)
        parameters = [p.requires_grad_() for p in network.initial(generator)]
        optimizer = torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
        members = np.flatnonzero(mask)
        batches = -(-len(members) // recipe.batch_size)
        steps, step = recipe.epochs * batches, 0
        for _ in range(recipe.epochs):
            place = torch.randperm(len(y), generator=generator).numpy()
            for index in np.array_split(members[np.argsort(place[members])], batches):
                step += 1
                done = step / (steps + 1)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * min(done / recipe.warmup, (1 - done) / (1 - recipe.warmup))
                logits = network.logits([p.unsqueeze(0) for p in parameters], x[index].unsqueeze(0))[0]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, y[index]).backward()
                optimizer.step()
        with torch.no_grad():
            logits = network.logits([p.unsqueeze(0) for p in parameters], x.unsqueeze(0))[0]
            out.append(margins(logits, y).numpy())
    return np.stack(out)


def _setting(name: str) -> tuple[BatchedNetwork, torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (8, 8, 1) if name == "mlp" else (17, 16, 3)
    network: BatchedNetwork = BatchedMLP(shape, 3, 8) if name == "mlp" else BatchedPatchNet(shape, 3, 4)
    images = rng.integers(0, 256, (40, *shape)).astype(np.uint8)
    labels = torch.from_numpy(rng.integers(0, 3, 40))
    return network, network.prepare(images), labels, draw_subsets(40, 6, 0.5, rng)


RECIPE = SurrogateRecipe(epochs=3, batch_size=7, lr=0.05)


@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_the_batched_ensemble_equals_the_plain_loop(name: str) -> None:
    network, x, y, masks = _setting(name)
    together = train_margins(network, x, y, masks, RECIPE, seed=3)
    assert np.allclose(together, _one_by_one(network, x, y, masks, RECIPE, seed=3), atol=1e-3)
    assert together.std(0).min() > 0


@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_a_models_margins_do_not_depend_on_the_chunk(name: str) -> None:
    network, x, y, masks = _setting(name)
    whole = train_margins(network, x, y, masks, RECIPE, seed=3)
    parts = [train_margins(network, x, y, masks[i : i + 2], RECIPE, seed=3) for i in (0, 2, 4)]
    assert np.allclose(whole, np.concatenate(parts), atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_each_model_has_the_start_and_the_order_of_its_own_seed(name: str) -> None:
    network, x, y, masks = _setting(name)
    seeds = [4, 3, 4, 5, 3, 4]
    whole = train_margins(network, x, y, masks, RECIPE, seeds)
    alone = [train_margins(network, x, y, masks[i : i + 1], RECIPE, seed) for i, seed in enumerate(seeds)]
    assert np.allclose(whole, np.concatenate(alone), atol=1e-4)
    assert not np.allclose(whole[1], train_margins(network, x, y, masks[1:2], RECIPE, 4)[0], atol=1e-2)


def test_on_a_gpu_as_many_are_trained_at_once_as_its_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = BatchedTrainer(BatchedPatchNet((32, 32, 3), 10, 64), SurrogateRecipe(epochs=1, batch_size=25, lr=0.1))
    # A network's step: 25 examples of 100 patches, each of 75 pixels and 64 units with their gradients, of four bytes.
    each = 4 * 25 * 100 * (75 + 2 * 64)
    chunks = []
    for networks in (1, 120, 10_000):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, n=networks: (4 * n * each, 1 << 40))
        chunks.append(trainer.chunk("cuda:0"))
    assert chunks == [4, 120, 300]
    assert trainer.chunk("cpu") == 31


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_a_gpu_gives_the_cpus_margins(name: str) -> None:
    network, x, y, masks = _setting(name)
    here = train_margins(network, x, y, masks, RECIPE, seed=3)
    there = train_margins(network, x.to("cuda"), y.to("cuda"), masks, RECIPE, seed=3)
    assert np.allclose(here, there, atol=1e-2)
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.999


def test_bfloat16_is_near_float32() -> None:
    network, x, y, masks = _setting("patches")
    exact = train_margins(network, x, y, masks, RECIPE, seed=3)
    half = SurrogateRecipe(epochs=3, batch_size=7, lr=0.05, precision="bfloat16")
    rounded = train_margins(network, x, y, masks, half, seed=3)
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


def test_every_pixel_lies_in_a_patch() -> None:
    for shape in ((32, 32, 3), (16, 17, 1), (28, 28, 1)):
        network = BatchedPatchNet(shape, 2, 4)
        images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
        changed = images.copy()
        for y, x in ((0, 0), (shape[0] - 1, shape[1] - 1), (0, shape[1] - 1)):
            changed[0, y, x] ^= 255
            assert not torch.equal(network.patches(images)[0], network.patches(changed)[0])
            changed[0, y, x] ^= 255
        assert network.patches(images).shape == (3, network.rows * network.columns, network.inputs)


def test_whitened_patches_are_uncorrelated() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1)).astype(np.uint8)
    images = np.sort(images, axis=1)  # neighbouring pixels alike
    x = BatchedPatchNet((16, 16, 1), 2, 4).prepare(images).flatten(0, 1)
    covariance = np.cov(x.T.numpy())
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 0.05
    assert np.diag(covariance).max() == pytest.approx(1, abs=0.1)


def test_patch_networks_are_a_convolution_with_biases() -> None:
    network = BatchedPatchNet((17, 16, 3), 4, 6)
    images = np.random.default_rng(0).integers(0, 256, (5, 17, 16, 3)).astype(np.uint8)
    x = network.prepare(images)
    assert torch.all(x[..., -1] == 1)
    w1, w2, b2 = network.initial(torch.Generator().manual_seed(0))
    w1[-1], b2[:] = torch.linspace(-1, 1, 6), torch.linspace(-2, 2, 4)
    # The patches laid out again as what a convolution of one patch by one sees.
    plane = x[..., :-1].mT.reshape(5, network.inputs, network.rows, network.columns)
    units = F.relu(F.conv2d(plane, w1[:-1].T[..., None, None], w1[-1]))
    pooled = F.adaptive_avg_pool2d(units, network.grid).flatten(2).mT.flatten(1)
    for scratch in (None, Scratch()):
        found = network.logits([p[None] for p in (w1, w2, b2)], x[None], scratch)[0]
        assert torch.allclose(found, pooled @ w2 + b2, atol=1e-4)


def test_scratch_is_of_the_type_that_is_asked_for() -> None:
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch("a", (4, 2), like)
    assert scratch("a", (2, 3), like).data_ptr() == first.data_ptr()
    assert scratch("a", (4,), like.bfloat16()).dtype == torch.bfloat16


def test_scratch_converts_a_constant_once() -> None:
    scratch, constant = Scratch(), torch.ones(3)
    half = scratch.copy("a", constant, torch.zeros(1).bfloat16())
    assert half.dtype == torch.bfloat16 and half.tolist() == [1, 1, 1]
    assert scratch.copy("a", constant, torch.zeros(1).bfloat16()) is half
    assert scratch.copy("a", constant, torch.zeros(1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("net", "shape"), [("mlp", (8, 8, 1)), ("patches", (32, 32, 3)), ("patches", (28, 28, 1)), ("patches", (20, 33, 3))]
)
def test_how_many_numbers_an_image_is_to_a_network(net: str, shape: tuple[int, int, int]) -> None:
    network = BatchedMLP(shape, 3, 4) if net == "mlp" else BatchedPatchNet(shape, 3, 4)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    assert network.prepare(images).numel() == 5 * floats_of_inputs(net, shape)
