"""Hidden trigger, Narcissus and Sleeper Agent: patches and pairs by hand, descent against closed forms, and digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bdbench
from bdbench import Attack, BdbenchError, ImageData, Recipe, Role, Split, Streams
from bdbench.testing.samples import Shape, split, workshop
from bdbench.testing.trials import tried
from bdbench_triggers import matching
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.collision import collide, paired
from bdbench_triggers.crafting import augment
from bdbench_triggers.hidden_trigger import HiddenTrigger
from bdbench_triggers.narcissus import Narcissus
from bdbench_triggers.sleeper_agent import SleeperAgent

STREAMS = Streams(0)
PLAIN = Recipe(epochs=1, batch_size=8, lr=0.1)


def quiet(done: int) -> None:
    """No progress."""


# The hidden patch.


def test_the_patch_is_somewhere_and_nothing_else_changes() -> None:
    images = np.full((50, 12, 16, 3), 7, np.uint8)
    stamped = HiddenTrigger(pattern="white").stamp(images, STREAMS)
    changed = (stamped != images).any(-1)
    assert (changed.sum((1, 2)) == 9).all() and (stamped[changed] == 255).all()
    corners = {tuple(np.argwhere(one)[0]) for one in changed}
    assert all(one[r : r + 3, c : c + 3].all() for one, (r, c) in zip(changed, map(first, changed), strict=True))
    assert {r for r, _ in corners} == set(range(10)) and max(c for _, c in corners) <= 13 and len(corners) > 20


def first(changed: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere(changed)[0]
    return int(row), int(column)


def test_in_the_corner_it_is_the_patch_of_badnets() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.uint8)
    hidden = SleeperAgent(placement="corner", pattern="checker", corner="top-right", margin=1)
    same = BadNets(size=8, corner="top-right", margin=1)
    assert np.array_equal(hidden.stamp(images, STREAMS), same.stamp(images, STREAMS))


def test_colours_are_enlarged_linearly() -> None:
    colours = STREAMS("trigger").integers(0, 256, (4, 4, 1))[..., 0]
    black = np.zeros((1, 32, 32, 1), np.uint8)
    patch = HiddenTrigger(placement="corner").stamp(black, STREAMS)[0, -8:, -8:, 0]
    # The outermost pixels are a quarter of a colour outside the first centre, the next ones a quarter inside.
    assert patch[0, 0] == colours[0, 0] and patch[7, 7] == colours[3, 3]
    assert patch[0, 1] == np.rint(0.75 * colours[0, 0] + 0.25 * colours[0, 1])
    small = HiddenTrigger(placement="corner", size=2).stamp(black, STREAMS)[0, -2:, -2:, 0]
    assert np.array_equal(small, STREAMS("trigger").integers(0, 256, (2, 2, 1))[..., 0])


def test_a_patch_that_does_not_fit_is_refused() -> None:
    for placement in ("random", "corner"):
        with pytest.raises(BdbenchError, match="size=9 with margin=0 does not fit images of 8 x 8"):
            HiddenTrigger(size=9, placement=placement).stamp(np.zeros((1, 8, 8, 1), np.uint8), STREAMS)  # type: ignore[arg-type]


def test_one_class_or_all_are_sources() -> None:
    labels = np.arange(10)
    one = HiddenTrigger(target=2, source=5).settled(10, STREAMS)
    assert one.goal(labels, 10).tolist() == [0, 1, 2, 3, 4, 2, 6, 7, 8, 9] and one.bystanders
    every = HiddenTrigger(target="seed", source="all").settled(10, Streams(3))
    assert (every.goal(labels, 10) == every.target).all() and not every.bystanders
    for attack in (one, every):
        assert np.flatnonzero(attack.sources(labels, attack.goal(labels, 10))).tolist() == [attack.target]
    covered = one.cover_sources(labels, one.goal(labels, 10))
    assert np.flatnonzero(covered).tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    with pytest.raises(BdbenchError, match="source=2 is not allowed"):
        HiddenTrigger(target=2, source=2).settled(10, STREAMS)


# Hidden trigger.


def test_pairs_by_hand() -> None:
    sources, found = torch.tensor([[0.0], [10.0], [11.0]]), torch.tensor([[10.4], [1.0], [9.9]])
    # Distances 0.1 (10, 9.9), 0.6 (11, 10.4), 1 (0, 1); the code's three nearest are 0.1, 0.4 (10, 10.4), 0.6.
    assert paired(sources, found, "one-to-one").tolist() == [2, 0, 1]
    assert paired(sources, found, "released").tolist() == [2, 1, 1]
    # Each image has one source: the second takes what the first, which is nearer to both, has left.
    assert paired(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.4], [5.0]]), "one-to-one").tolist() == [1, 0]
    crowd = torch.tensor([[0.0], [50.0], [60.0]])
    assert sorted(paired(crowd, torch.tensor([[0.0], [0.1], [0.2]]), "one-to-one").tolist()) == [0, 1, 2]
    assert paired(crowd, torch.tensor([[0.0], [0.1], [0.2]]), "released").tolist() == [0, 0, 0]


def test_collision_of_plain_pixels_ends_at_the_clipped_source() -> None:
    # With the pixels as features each has its own minimum: the source's value, as near as the bound lets it.
    rng = torch.Generator().manual_seed(0)
    x, sources = torch.rand(1, 3, 4, 4, generator=rng), torch.rand(1, 3, 4, 4, generator=rng)
    made, distance = collide(
        lambda z: z.flatten(1), x, sources, eps=0.2, lr=lambda step: 0.1, steps=60, pairing="one-to-one", advance=quiet
    )
    expected = x + (sources - x).clamp(-0.2, 0.2)
    assert torch.allclose(made, expected, atol=1e-5)
    assert float(distance) == pytest.approx(float((sources - expected).square().sum()), rel=1e-4)


def test_the_nearest_of_more_candidates_are_taken(tmp_path: Path) -> None:
    train = split((8, 8, 1), 4, 80)
    made = {}
    for candidates in (1, 3):
        attack = HiddenTrigger(rate=0.05, steps=20, lr=0.2, candidates=candidates).settled(4, STREAMS)
        tools = workshop(attack, train, 4, 0, tmp_path / str(candidates))
        made[candidates] = attack.craft(train, tools)["index"]
    assert len(made[1]) == len(made[3]) == 4 and (train.labels[made[3]] == 0).all()
    assert not np.array_equal(made[1], made[3]) and (np.diff(made[3]) > 0).all()


# Sleeper Agent.


def softmax_model(pixels: int, classes: int) -> tuple[nn.Module, nn.Linear]:
    torch.manual_seed(0)
    layer = nn.Linear(pixels, classes)
    return nn.Sequential(nn.Flatten(), layer), layer


def test_gradient_lengths_of_a_linear_model_are_known() -> None:
    model, _ = softmax_model(12, 4)
    x, labels = torch.rand(6, 3, 2, 2), torch.arange(6) % 4
    # The gradient is (p - y) x' for the weights and p - y for the bias.
    wrong = torch.softmax(model(x), 1) - nn.functional.one_hot(labels, 4)
    expected = wrong.norm(dim=1) * (x.flatten(1).square().sum(1) + 1).sqrt()
    assert np.allclose(matching.norms(model, x, labels, quiet), expected.detach().numpy(), rtol=1e-5)


def test_the_mean_gradient_does_not_depend_on_the_batches() -> None:
    model, _ = softmax_model(12, 4)
    x, labels = torch.rand(7, 3, 2, 2), torch.arange(7) % 4
    whole, parts = matching.gradient(model, x, labels), matching.mean_gradient(model, x, labels, 3)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))
    assert float(matching.apart(whole, parts)) == pytest.approx(0, abs=1e-6)
    assert float(matching.apart(whole, tuple(-g for g in whole))) == pytest.approx(2)


def matched(x: torch.Tensor, state: Any, steps: range, *, eps: float = 0.1, total: int = 40) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 4))
    wanted = matching.gradient(model, torch.rand(9, 3, 4, 4), torch.ones(9, dtype=torch.int64))
    found = matching.match(
        model,
        x,
        torch.arange(len(x)) % 4,
        wanted,
        state,
        eps=eps,
        unit=torch.tensor([0.25, 0.25, 0.5])[:, None, None],
        steps=steps,
        total=total,
        lr=0.05,
        batch=4,
        recipe=PLAIN,
        generator=torch.Generator(),
        advance=quiet,
    )
    return dict(found)


def test_matching_brings_the_gradients_together_within_the_bound_and_goes_on_where_it_was() -> None:
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    start = {"change": np.zeros((6, 3, 4, 4), np.float32)}
    one, whole = matched(x, start, range(1)), matched(x, start, range(40))
    assert float(whole["loss"]) < float(one["loss"]) - 0.05
    moved = torch.from_numpy(whole["change"]) * torch.tensor([0.25, 0.25, 0.5])[:, None, None]
    assert 0.05 < float(moved.abs().max()) <= 0.1 + 1e-6
    assert float((x + moved).min()) >= -1e-6 and float((x + moved).max()) <= 1 + 1e-6
    again = matched(x, matched(x, start, range(13)), range(13, 40))
    assert np.allclose(again["change"], whole["change"], atol=1e-6)


# Narcissus.


def narcissus(model: nn.Module, images: np.ndarray, attack: Narcissus, tools: Any) -> np.ndarray:
    state = {"trigger": np.zeros((1, images.shape[3], *images.shape[1:3]), np.float32)}
    return attack._descended(model, images, state, 0, tools)["trigger"]


def test_the_trigger_of_a_linear_model_is_at_the_bound_where_algebra_says(tmp_path: Path) -> None:
    # With two classes the gradient of the target's loss is along w_other - w_target, whatever the image.
    model, layer = softmax_model(12, 2)
    images = np.full((5, 2, 2, 3), 128, np.uint8)
    attack = Narcissus(target=1, rounds=80, lr=0.02)
    tools = workshop(attack, Split(images, np.arange(5) % 2), 2, 0, tmp_path)
    inward = (layer.weight[1] - layer.weight[0]).detach().reshape(1, 3, 2, 2)
    found = narcissus(model.requires_grad_(False), images, attack, tools)
    assert np.allclose(found, 16 / 255 * inward.sign().numpy(), atol=1e-6)


def test_the_trigger_is_added_once_in_training_and_amplified_in_tests() -> None:
    trigger = np.array([[[16], [-16]], [[5], [0]]], np.int16)
    images = np.array([[[[100], [100]], [[250], [3]]]], np.uint8)
    attack, tools = Narcissus(), workshop_like()
    assert attack.stamp_with(images, {"trigger": trigger}, STREAMS, "cpu")[0, ..., 0].tolist() == [[116, 84], [255, 3]]
    assert attack.triggered(images, {"trigger": trigger}, tools)[0, ..., 0].tolist() == [[148, 52], [255, 3]]


def workshop_like() -> Any:
    return None


def test_crafting_goes_on_after_the_piece_that_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = split((8, 8, 1), 4, 40)
    attack = Narcissus(rounds=250).settled(4, STREAMS)
    started: list[int] = []
    real = Narcissus._descended

    def descended(self: Narcissus, surrogate: Any, images: Any, state: Any, begin: int, tools: Any) -> Any:
        started.append(begin)
        if started == [0, 100]:
            raise KeyboardInterrupt
        return real(self, surrogate, images, state, begin, tools)

    monkeypatch.setattr(Narcissus, "_descended", descended)
    with pytest.raises(KeyboardInterrupt):
        attack.craft(train, workshop(attack, train, 4, 0, tmp_path / "a"))
    interrupted = attack.craft(train, workshop(attack, train, 4, 0, tmp_path / "a"))
    assert started == [0, 100, 100, 200]
    whole = attack.craft(train, workshop(attack, train, 4, 0, tmp_path / "b"))
    assert np.array_equal(interrupted["trigger"], whole["trigger"]) and np.abs(whole["trigger"]).max() == 16


def test_a_sleeper_agents_model_is_trained_anew_on_what_is_crafted_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split((8, 8, 1), 4, 80)
    attack = SleeperAgent(rate=0.05, steps=6, retrainings=2, selection="random").settled(4, STREAMS)
    tools = workshop(attack, train, 4, 0, tmp_path)
    given: list[np.ndarray] = []
    real = type(tools).train

    def heard(self: Any, images: np.ndarray, *rest: Any, **options: Any) -> Any:
        given.append(images.copy())
        return real(self, images, *rest, **options)

    def matched(
        self: Any, surrogate: Any, clean: np.ndarray, sources: Any, state: Any, steps: range, tools: Any
    ) -> Any:
        return {"change": state["change"], "images": np.full_like(clean, steps.stop)}

    monkeypatch.setattr(type(tools), "train", heard)
    monkeypatch.setattr(SleeperAgent, "_matched", matched)
    made = attack.craft(train, tools)
    expected = np.array(train.images)
    for shown, value in zip(given, (None, 2, 4), strict=True):
        if value is not None:
            expected[made["index"]] = value
        assert np.array_equal(shown, expected)
    assert (made["images"] == 6).all()


# All of them.


def test_augmentation_flips_and_shifts_by_whole_pixels_and_passes_gradients() -> None:
    x = torch.arange(2 * 64.0).reshape(2, 1, 8, 8).repeat(20, 1, 1, 1).requires_grad_(True)
    seen = augment(x, Recipe(1, 1, 0.1, flip=True, crop_padding=2), torch.Generator().manual_seed(0))
    assert seen.shape == x.shape and not torch.equal(seen, x)
    # Neighbours along a row differ by one, but where an edge is reflected, and fall where the image is flipped.
    steps = seen.detach().diff(dim=3)
    assert set(steps.abs().unique().tolist()) == {1.0} and (steps > 0).any() and (steps < 0).any()
    (gradient,) = torch.autograd.grad(seen.sum(), x)
    assert float(gradient.sum()) == seen.numel()
    assert torch.equal(augment(x, PLAIN, torch.Generator()), x)


ATTACKS: list[Attack] = [
    HiddenTrigger(steps=3, lr=1.0),
    HiddenTrigger(steps=3, lr=1.0, source="all", pairing="released"),
    Narcissus(rate=0.05, rounds=20),
    SleeperAgent(rate=0.05, steps=3, retrainings=1),
    SleeperAgent(rate=0.05, steps=2, retrainings=4, selection="random", source="all"),
]


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (17, 24, 3), (64, 64, 1), (224, 224, 3)], ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.name}-{getattr(a, 'source', '')}")
def test_any_size_is_poisoned_within_the_bound_and_without_a_wrong_label(attack: Any, shape: Shape) -> None:
    count = 100 if shape[0] < 100 else 30
    images = ImageData(split(shape, 3, count), split(shape, 3, 12, seed=1), ("a", "b", "c"))
    with tried(attack, images) as trial:
        made, challenge = trial.poison(), trial.challenge()
    clean = np.asarray(images.train.images)
    assert np.array_equal(made.labels, images.train.labels)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == round(attack.rate * count) and (made.labels[poisons] == 0).all()
    change = np.abs(made.images.astype(int) - clean)
    assert change.max() <= 16 and change[poisons].any((1, 2, 3)).all() and not change[~poisons].any()
    assert challenge is not None and challenge.images.shape[1:] == shape
    attacked = challenge.goal != images.test.labels[challenge.index]
    sources = set(images.test.labels[challenge.index[attacked]].tolist())
    one = getattr(trial.attack, "source", "all")
    assert sources == ({1, 2} if one == "all" else {one})


@pytest.mark.parametrize("eps", [5.0, 20.0])
@pytest.mark.parametrize(
    "attack",
    [
        HiddenTrigger(steps=20, lr=1.0, rate=0.05),
        Narcissus(rate=0.05, rounds=20, lr=0.05),
        SleeperAgent(rate=0.05, steps=20, retrainings=1),
    ],
    ids=lambda attack: attack.name,
)
def test_a_change_reaches_its_bound_and_stays_within(attack: Any, eps: float) -> None:
    images = ImageData(split((8, 8, 1), 4, 80), split((8, 8, 1), 4, 12), ("a", "b", "c", "d"))
    with tried(replace(attack, eps=eps, target=0), images) as trial:
        made = trial.poison()
    index = np.arange(80) if made.index is None else made.index
    change = np.abs(made.images.astype(int) - np.asarray(images.train.images)[index])
    assert change.max() == eps


def test_a_class_without_images_is_no_source() -> None:
    attack = SleeperAgent(rate=0.1, source=3, steps=1).settled(4, STREAMS)
    images = ImageData(split((8, 8, 1), 3, 30), split((8, 8, 1), 3, 12), ("a", "b", "c", "d"))
    with pytest.raises(BdbenchError, match="source=3 has no training images"), tried(attack, images):
        pass


@pytest.mark.parametrize(
    "attack", ["sleeper-agent:rate=.03,steps=8,retrainings=1", "hidden-trigger:rate=.03,lr=1,steps=5"]
)
def test_a_run_knows_its_bystanders(attack: str, tiny: dict[str, Any]) -> None:
    record = bdbench.run(**{**tiny, "attack": attack}, defense="random")
    data = record.config["data"]
    assert data["poisons"] == round(0.03 * data["train"]) and data["covers"] == 0
    assert 0 < data["attacked"] < data["bystanders"] and data["attacked"] + data["bystanders"] == data["test"]
    assert record.before.bystander_accuracy is not None


def test_the_examples_with_the_longest_gradients_are_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train = split((8, 8, 1), 4, 40)
    attack = SleeperAgent(target=1)
    pool = np.flatnonzero(train.labels == 1)
    monkeypatch.setattr(matching, "norms", lambda model, x, labels, track: np.arange(len(x)))
    surrogate: Any = SimpleNamespace(module=torch.nn.Identity)
    chosen = attack._selected(surrogate, train, 3, workshop(attack, train, 4, 0, tmp_path))
    assert chosen["index"].tolist() == pool[-3:].tolist()
