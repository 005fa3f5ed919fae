from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, Recipe, Split
from bdbench.networks import resuming, training
from bdbench.networks.recipe import Batch
from bdbench.progress import Silent
from bdbench.testing import samples
from bdbench_triggers.badnets import BadNets

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01)


def build() -> torch.nn.Module:
    from bdbench_models.networks import SmallConvNet

    return SmallConvNet(1, 4, 4)


def trainer(recipe: Recipe = RECIPE) -> training.Trainer:
    return training.Trainer(build, recipe, "cpu", Silent().track)


def trained(images: np.ndarray, labels: np.ndarray, seed: int = 0, recipe: Recipe = RECIPE) -> training.Victim:
    return trainer(recipe).train(images, labels, seed)


def test_training_is_seeded_and_leaves_the_global_state(split: Split) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = trained(split.images, split.labels)
    assert torch.rand(1) == expected
    torch.manual_seed(99)
    again = trained(split.images, split.labels)
    other = trained(split.images, split.labels, seed=1)
    assert np.array_equal(first.logits(split.images), again.logits(split.images))
    assert not np.array_equal(first.logits(split.images), other.logits(split.images))


def test_a_model_survives_its_arrays(split: Split) -> None:
    first = trained(split.images, split.labels)
    again = trainer().restore(first.arrays())
    assert np.array_equal(first.logits(split.images), again.logits(split.images))
    assert first.features(split.images).shape == (40, 16)


def test_it_learns_what_can_be_learned(split: Split) -> None:
    images = np.zeros((80, 8, 8, 1), np.uint8)
    labels = np.arange(80) % 4
    for i, y in enumerate(labels):
        images[i, 4 * (y // 2) : 4 * (y // 2) + 4, 4 * (y % 2) : 4 * (y % 2) + 4] = 200
    model = trained(images, labels, recipe=Recipe(epochs=15, batch_size=16, lr=0.01, optimizer="adamw"))
    assert (model.predict(images) == labels).mean() == 1.0


def test_augmentation_only_moves_pixels() -> None:
    images = torch.arange(2 * 5 * 5 * 1, dtype=torch.uint8).reshape(2, 5, 5, 1)
    recipe = Recipe(epochs=1, batch_size=2, lr=1, flip=True, crop_padding=2)
    for seed in range(20):
        out = recipe.augmentation(len(images), torch.Generator().manual_seed(seed))(images)
        assert out.shape == images.shape
        for before, after in zip(images, out, strict=True):
            assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


def test_augmentation_flips_and_crops_by_reflection_and_gradients_pass() -> None:
    recipe = Recipe(epochs=1, batch_size=64, lr=0.1, flip=True, crop_padding=2)
    image = np.arange(64.0).reshape(8, 8)
    x = torch.from_numpy(image).view(1, 8, 8, 1).repeat(64, 1, 1, 1).requires_grad_(True)
    move = recipe.augmentation(64, torch.Generator().manual_seed(0))
    moved = move(x)
    assert torch.equal(moved, move(x))
    found = {tuple(one.flatten().tolist()) for one in moved}
    padded = [np.pad(one, 2, mode="reflect") for one in (image, image[:, ::-1])]
    windows = {tuple(one[i : i + 8, j : j + 8].ravel().tolist()) for one in padded for i in range(5) for j in range(5)}
    assert found <= windows and len(found) > 20
    moved.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and float(x.grad.sum()) == x.numel()


def test_the_rate_rises_then_falls() -> None:
    rates = [Recipe(epochs=1, batch_size=1, lr=1.0).rate(s, 9) for s in range(9)]
    assert rates == pytest.approx([0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_a_device_that_is_not_there_is_refused() -> None:
    assert training.pick_device("cpu") == training.pick_device("cpu:0") == "cpu"
    with pytest.raises(BdbenchError, match="device 'abacus' is not available"):
        training.pick_device("abacus")


class _Dropped(torch.nn.Module):
    """Draws from torch's global generator in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x.flatten(1), 0.5, self.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


def test_dropout_is_drawn_from_the_seed_and_the_global_state_stays(split: Split) -> None:
    made = training.Trainer(_Dropped, RECIPE, "cpu", Silent().track)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        expected = torch.random.get_rng_state()
        results.append(made.train(split.images, split.labels, 0).logits(split.images))
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], made.train(split.images, split.labels, 1).logits(split.images))


def test_a_warm_up_of_all_steps_only_rises() -> None:
    rising = Recipe(epochs=1, batch_size=1, lr=2.0, warmup=1.0)
    assert [rising.rate(s, 3) for s in range(3)] == pytest.approx([0.5, 1.0, 1.5])


def test_a_module_takes_pixels_in_0_to_1_and_has_gradients(split: Split) -> None:
    victim = trained(split.images, split.labels)
    x = torch.from_numpy(np.asarray(split.images)).permute(0, 3, 1, 2) / 255
    x.requires_grad_()
    logits = victim.module()(x)
    assert np.allclose(logits.detach().numpy(), victim.logits(split.images), atol=1e-4)
    logits.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_training_goes_on_from_a_model_and_leaves_that_as_it_was(split: Split) -> None:
    first = trained(split.images, split.labels)
    before = first.arrays()
    still = trainer().train(split.images, split.labels, 3, start=first, recipe=Recipe(epochs=1, batch_size=40, lr=1e-9))
    moved = trainer().train(split.images, split.labels, 3, start=first, recipe=Recipe(epochs=1, batch_size=40, lr=0.1))
    assert all(np.array_equal(v, before[k]) for k, v in first.arrays().items())
    for name, value in before.items():
        if name.endswith("weight"):
            assert np.allclose(still.arrays()[name], value, atol=1e-6)
    assert not np.allclose(moved.arrays()["state.linear.weight"], before["state.linear.weight"], atol=1e-3)
    assert np.array_equal(still.mean, first.mean)


def test_a_loss_sees_which_examples_it_is_of(split: Split) -> None:
    """Ascending on the loss of half the set unlearns that half: the sign is the loss's own."""

    def loss(batch: Batch) -> torch.Tensor:
        each = torch.nn.functional.cross_entropy(batch.network(batch.x), batch.labels, reduction="none")
        return (each * torch.where(batch.index < 20, -1.0, 1.0)).clamp_min(-3).mean()

    recipe = Recipe(epochs=20, batch_size=20, lr=0.02, optimizer="adamw")
    model = trainer(recipe).train(split.images, split.labels, 0, loss=loss)
    right = model.predict(split.images) == split.labels
    assert right[:20].mean() < 0.2 and right[20:].mean() > 0.8


def test_no_images_give_no_predictions(split: Split) -> None:
    model, none = trained(split.images, split.labels), np.zeros((0, 8, 8, 1), np.uint8)
    assert (model.predict(none).shape, model.logits(none).shape, model.features(none).shape) == ((0,), (0, 4), (0, 16))


def test_other_images_are_moved_and_normalised_as_the_examples_own(split: Split) -> None:
    images = np.asarray(split.images)
    mirrored = torch.from_numpy(255 - images)
    seen: list[bool] = []

    def loss(batch: Batch) -> torch.Tensor:
        assert torch.equal(batch.prepare(torch.from_numpy(images[batch.index])), batch.x)
        # Negatives differ from the images by a sign and a shift, whatever way they were moved.
        total = batch.prepare(mirrored[batch.index]) + batch.x
        assert torch.allclose(total, total.mean(), atol=1e-4)
        seen.append(not torch.equal(batch.x, _plain(batch)))
        return torch.nn.functional.cross_entropy(batch.network(batch.x), batch.labels)

    def _plain(batch: Batch) -> torch.Tensor:
        x = torch.from_numpy(images[batch.index]).permute(0, 3, 1, 2) / 255
        mean, std = training._moments(images)
        return (x - torch.from_numpy(mean)) / torch.from_numpy(std)

    trainer(Recipe(epochs=1, batch_size=10, lr=0.01, flip=True, crop_padding=2)).train(
        images, split.labels, 0, loss=loss
    )
    assert seen == [True] * 4


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, optimizer="adamw"), replace(RECIPE, momentum=0.0)])
def test_a_training_that_was_interrupted_ends_with_the_same_numbers(split: Split, recipe: Recipe) -> None:
    recipe = replace(recipe, epochs=6, flip=True, crop_padding=1)
    made = training.Trainer(_Dropped, recipe, "cpu", Silent().track)
    folder: dict[int, dict[str, np.ndarray]] = {}
    ran: list[int] = []

    def keep(end: int, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        if end not in folder:
            folder[end] = make()
        return folder[end]

    def loss(batch: Batch) -> torch.Tensor:
        ran.append(batch.epoch)
        if killed and batch.epoch == 4:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(batch.network(batch.x), batch.labels)

    killed = True
    with pytest.raises(KeyboardInterrupt):
        made.train(split.images, split.labels, 0, loss=loss, keep=keep)
    assert sorted(folder) == [2, 3]
    killed, ran = False, []
    found = made.train(split.images, split.labels, 0, loss=loss, keep=keep)
    assert sorted(folder) == [2, 3, 5, 6] and set(ran) == {3, 4, 5}
    whole = made.train(split.images, split.labels, 0, loss=loss).arrays()
    assert all(np.array_equal(value, whole[name]) for name, value in found.arrays().items())


def test_pieces_hold_every_epoch_once() -> None:
    for epochs in range(1, 30):
        found = resuming.pieces(epochs)
        assert [e for piece in found for e in piece] == list(range(epochs)) and len(found) == min(4, epochs)


def test_a_loss_that_is_known_is_kept_and_not_run_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(batch: Batch) -> torch.Tensor:
        calls.append(batch.epoch)
        return torch.nn.functional.cross_entropy(batch.network(batch.x), batch.labels)

    attack, train = BadNets(), samples.split(samples.GREY, 4, 40)
    images = np.asarray(train.images)

    def attempt(**known: Any) -> Any:
        tools = samples.workshop(attack, train, 4, 0, tmp_path)
        return tools.train(images, train.labels, "joint", loss=loss, **known).logits(images)

    first = attempt(kept={"half": 1})
    assert set(calls) == {0, 1, 2}
    calls.clear()
    assert np.array_equal(first, attempt(kept={"half": 1})) and not calls
    assert np.array_equal(first, attempt(kept={"half": 2})) and set(calls) == {0, 1, 2}
    with pytest.raises(ValueError, match="expected a loss, and no each_epoch"):
        attempt(kept={}, each_epoch=lambda epoch, victim: None)


def test_a_loop_goes_on_where_it_was_with_the_same_numbers(tmp_path: Path) -> None:
    ran: list[int] = []
    kill = [4]

    def attempt(folder: Path, epochs: int = 6, rate: float = 0.1) -> Any:
        tools = samples.workshop(BadNets(), samples.split(samples.GREY, 4, 40), 4, 0, folder)
        network = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(network.weight, 0.5)
        torch.nn.init.zeros_(network.bias)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)

        def epoch(number: int, generator: torch.Generator) -> None:
            if number in kill:
                raise KeyboardInterrupt
            ran.append(number)
            x = torch.rand(4, 3, generator=generator) + torch.rand(4, 3)
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()

        state = torch.get_rng_state()
        tools.loop("it", {"network": network, "optimizer": optimizer}, epochs, epoch, kept={"rate": rate})
        assert torch.equal(torch.get_rng_state(), state)
        return network.weight.detach().numpy().copy()

    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "a")
    assert ran == [0, 1, 2, 3]
    kill.clear(), ran.clear()
    again = attempt(tmp_path / "a")
    # Of six epochs in four pieces three were kept.
    assert ran == [3, 4, 5]
    assert np.array_equal(again, attempt(tmp_path / "b"))
    ran.clear()
    assert np.array_equal(again, attempt(tmp_path / "a")) and not ran
    assert not np.array_equal(again, attempt(tmp_path / "a", rate=0.2)) and ran == list(range(6))


def test_means_and_deviations_are_those_of_all_pixels_and_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (301, 6, 5, 3)).astype(np.uint8)
    images[..., 2] = 7
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    monkeypatch.setattr(training, "_BATCH", 100)
    mean, std = training._moments(images)
    assert np.allclose(mean, pixels.mean(0), rtol=1e-6)
    # No deviation is below a thousandth: something is divided by it.
    assert np.allclose(std, [*pixels.std(0)[:2], 1e-3], rtol=1e-6)
    monkeypatch.undo()
    large = np.zeros((8000, 32, 32, 3), np.uint8)
    tracemalloc.start()
    training._moments(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * large.nbytes


@pytest.mark.parametrize("odd", [{"epochs": 10**9}, {"epochs": 10**400}, {"batch_size": 10**30}, {"lr": 1e300}])
def test_a_recipe_beyond_arithmetic_is_refused(odd: dict[str, Any]) -> None:
    ((name, _),) = odd.items()
    with pytest.raises(BdbenchError, match=rf"^{name}=1[0e+]*\d* is not allowed in a recipe: expected at most 1e"):
        Recipe(**{"epochs": 1, "batch_size": 1, "lr": 1.0, **odd})


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"lr": -1}, "lr=-1 is not allowed in a recipe: expected at least 0"),
        ({"batch_size": 0}, "batch_size=0 is not allowed in a recipe: expected at least 1"),
        ({"optimizer": "adam"}, "optimizer='adam' is not allowed in a recipe: expected one of sgd, adamw"),
    ],
)
def test_a_recipe_says_what_it_may_have(odd: dict[str, Any], said: str) -> None:
    with pytest.raises(BdbenchError, match=f"^{said}$"):
        Recipe(**{"epochs": 1, "batch_size": 1, "lr": 1.0, **odd})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.5}, "epochs=1.5 is not allowed in a recipe: expected an integer"),
        ({"batch_size": True}, "batch_size=True is not allowed in a recipe: expected an integer"),
        ({"batch_size": 0}, "batch_size=0 is not allowed in a recipe: expected at least 1"),
    ],
)
def test_a_recipe_of_numbers_that_no_training_could_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BdbenchError, match=message):
        replace(RECIPE, **changes)


def test_a_model_that_builds_no_network_is_named() -> None:
    trainer = training.Trainer(lambda: None, RECIPE, "cpu", Silent().track)  # type: ignore[arg-type, return-value]
    with pytest.raises(BdbenchError, match="builds a network of NoneType: expected a torch.nn.Module"):
        trainer.untrained(0)
