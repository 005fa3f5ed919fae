from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bdbench
from bdbench import BdbenchError
from bdbench_datamodel.detector import Datamodel
from bdbench_datamodel.ensemble import draw_subsets, margins
from bdbench_datamodel.plan import Plan
from bdbench_datamodel.resnet import ResNet9, ResNetRecipe, ResNetTrainer
from bdbench_datamodel.surrogates import BatchedPatchNet

SHAPE = (17, 16, 3)
RECIPE = ResNetRecipe(epochs=2, batch_size=6, lr=0.05)


def _setting() -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 40)
    images = rng.integers(0, 256, (40, *SHAPE)).astype(np.uint8)
    # 20 examples in batches of 6: two of each epoch are left out.
    return images, torch.from_numpy(labels), draw_subsets(40, 3, 0.5, rng)


def _one_by_one(x: np.ndarray, y: torch.Tensor, masks: np.ndarray, recipe: ResNetRecipe, seed: int) -> np.ndarray:
    """The plain loop: an ordinary module for each subset, images cut out one by one, torch's own unfused SGD."""
    wide = np.pad(x, ((0, 0), (recipe.shift,) * 2, (recipe.shift,) * 2, (0, 0)), mode="reflect")
    out = []
    for mask in masks:
        generator = torch.Generator().manual_seed(seed)
        network = ResNet9(3, 3, 4)
        network.draw(generator)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False
        )
        members = np.flatnonzero(mask)
        per_epoch = len(members) // recipe.batch_size
        steps = recipe.epochs * per_epoch
        for epoch in range(recipe.epochs):
            place = torch.randperm(len(y), generator=generator).numpy()
            shifts = torch.randint(2 * recipe.shift + 1, (len(y), 2), generator=generator).tolist()
            mirrored = torch.randint(2, (len(y), 1), generator=generator)[:, 0].tolist()
            order = members[np.argsort(place[members])]
            for number in range(per_epoch):
                done = (epoch * per_epoch + number + 1) / (steps + 1)
                optimizer.param_groups[0]["lr"] = recipe.lr * min(done / 0.2, (1 - done) / 0.8)
                index = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
                cut = []
                for i in index:
                    down, right = shifts[i]
                    image = wide[i, down : down + SHAPE[0], right : right + SHAPE[1]]
                    cut.append(image[:, ::-1] if mirrored[i] and recipe.flip else image)
                batch = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()
                optimizer.zero_grad()
                F.cross_entropy(network(batch), y[index], label_smoothing=recipe.smoothing).backward()
                optimizer.step()
        network.eval()
        with torch.no_grad():
            out.append(margins(network(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()), y).numpy())
    return np.stack(out)


@pytest.fixture
def doubled() -> Iterator[None]:
    """In float32 a sum's last bit decides a rectified unit now and then, and from there on two trainings differ."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("flip", [True, False])
def test_the_ensemble_equals_the_plain_loop(doubled: None, flip: bool) -> None:
    images, labels, masks = _setting()
    recipe = ResNetRecipe(epochs=2, batch_size=6, lr=0.5, flip=flip)
    trainer = ResNetTrainer(SHAPE, 3, 4, recipe)
    inputs = trainer.prepare(images).double()
    found = trainer.margins(inputs, labels, masks, 3)
    expected = _one_by_one(inputs[:, 2:-2, 2:-2].numpy(), labels, masks, recipe, 3)
    assert np.allclose(found, expected, atol=1e-6)
    assert found.std(0).min() > 1e-3


def test_images_are_normalised_by_channel_and_mirrored_at_their_edges() -> None:
    images, _, _ = _setting()
    x = images.astype(np.float64)
    x = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    assert np.allclose(ResNetTrainer(SHAPE, 3, 4, RECIPE).prepare(images), wide, atol=1e-3)


def test_a_network_starts_anew_whatever_was_trained_before_it() -> None:
    images, labels, masks = _setting()
    trainer = ResNetTrainer(SHAPE, 3, 4, RECIPE)
    inputs = trainer.prepare(images)
    whole = trainer.margins(inputs, labels, masks, [5, 5, 6])
    alone = [trainer.margins(inputs, labels, masks[i : i + 1], s)[0] for i, s in enumerate([5, 5, 6])]
    assert (whole == np.stack(alone)).all()
    assert np.abs(whole[2] - trainer.margins(inputs, labels, masks[2:], 5)[0]).max() > 1e-3


def test_bfloat16_is_near_float32() -> None:
    images, labels, masks = _setting()
    exact, half = (
        trainer.margins(trainer.prepare(images), labels, masks, 3)
        for trainer in (ResNetTrainer.of(SHAPE, 3, 20, 4, 2, p) for p in ("float32", "bfloat16"))  # type: ignore[arg-type]
    )
    assert np.corrcoef(exact.ravel(), half.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(16, 16, 1), (28, 29, 1), (33, 17, 3)])
def test_images_of_any_size_from_16_pixels_on(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, *shape)).astype(np.uint8)
    trainer = ResNetTrainer.of(shape, 5, 6, hidden=4, epochs=1)
    masks = draw_subsets(12, 1, 0.5, np.random.default_rng(0))
    found = trainer.margins(trainer.prepare(images), torch.arange(12) % 5, masks, 1)
    assert found.shape == (1, 12) and found.dtype == np.float32 and np.isfinite(found).all()


def test_a_recipe_has_enough_steps_whatever_a_subset_holds() -> None:
    batches = {held: ResNetRecipe.of(held, 3).batch_size for held in (2, 20, 1000, 10_000, 25_000, 100_000)}
    assert batches == {2: 2, 20: 20, 1000: 32, 10_000: 208, 25_000: 512, 100_000: 512}
    assert ResNetRecipe.of(25_000, 3).lr == 0.5 and ResNetRecipe.of(25_000, 3).flip
    assert not ResNetRecipe.of(25_000, 1).flip


def _view(side: int = 16) -> bdbench.TrainingView:
    rng = np.random.default_rng(0)
    return bdbench.TrainingView(rng.integers(0, 256, (30, side, side, 3)).astype(np.uint8), np.arange(30) % 3, 3)


def test_the_detector_plans_them_where_they_are_asked_for() -> None:
    plan = Plan.of(Datamodel(net="resnet9", hidden=4, alpha=0.5), _view(), "float32")
    assert isinstance(plan.trainer, ResNetTrainer) and plan.models == 300
    assert plan.trainer.config()["net"] == "ResNet9" and plan.trainer.config()["hidden"] == 4
    batched: Any = Plan.of(Datamodel(), _view(), "float32").trainer
    assert isinstance(batched.network, BatchedPatchNet)


def test_what_they_cannot_do_is_refused() -> None:
    with pytest.raises(BdbenchError, match="net=resnet9 is not allowed with estimator=trak: expected one of auto, mlp"):
        Datamodel(net="resnet9", estimator="trak")
    with pytest.raises(BdbenchError, match="net=resnet9 needs images of at least 16 x 16, not 15 x 15: use mlp"):
        Plan.of(Datamodel(net="resnet9"), _view(15), "float32")
