"""Attacks with generators: their formulas by hand, their bounds, what they learn, and training that goes on."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import bdbench
from bdbench import Attack, BdbenchError, Role, Split, State, Victim
from bdbench.components.applicable import why_not
from bdbench.experiment import cell
from bdbench.registry.plugins import installed
from bdbench.testing.samples import split
from bdbench_triggers import input_aware_networks as networks
from bdbench_triggers import loops
from bdbench_triggers.generators import Generator, changed, weights, with_weights
from bdbench_triggers.input_aware import InputAware
from bdbench_triggers.lira import Lira, _moved
from bdbench_triggers.ssba import Ssba
from bdbench_triggers.steganography import Encoder, trained
from tests.plugins.triggers.crafting import Fixed, Heard, at_work, crafted
from tests.plugins.triggers.test_input_aware import Scaled

SMALL: list[Attack] = [
    InputAware(mask_epochs=1, width=2),
    Lira(epochs=1, tune_epochs=1, width=2),
    Ssba(steps=4, width=2),
]
GREY, COLOUR = (8, 8, 1), (16, 16, 3)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(array, other[key]) for key, array in one.items())


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (28, 28, 1), (224, 224, 3)])
@pytest.mark.parametrize("skips", [False, True])
def test_a_generator_keeps_any_size(shape: tuple[int, int, int], skips: bool) -> None:
    network = Generator(shape[2], 2, 3, 3 if min(shape) > 8 else 2, skips=skips).eval()
    assert network(torch.zeros(2, shape[2], *shape[:2])).shape == (2, 2, *shape[:2])


def test_a_generator_looks_far_and_ends_as_asked() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16)
    moved = x.clone()
    moved[..., 0, 0] += 1
    network = Generator(3, 3, 4, 3).eval()
    assert (network(moved) - network(x)).abs()[..., 12:, 12:].max() > 0
    top, bounded = (list(Generator(3, 3, 4, 2, bounded=bounded).up[-1].children()) for bounded in (False, True))
    assert isinstance(top[-1], nn.Conv2d) and isinstance(bounded[-1], nn.BatchNorm2d)


def test_weights_come_back() -> None:
    torch.manual_seed(0)
    network, other = Generator(3, 3, 2, 2).train(), Generator(3, 3, 2, 2)
    network(torch.rand(4, 3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    found = with_weights(other, weights(network, "it"), "it", "cpu")
    assert torch.equal(found(x), network.eval()(x))


def test_images_go_through_a_function_and_back() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 3)).astype(np.uint8)
    assert np.array_equal(changed(lambda x: x, "cpu", images), images)
    assert np.array_equal(changed(lambda x: 1 - x, "cpu", images), 255 - images)
    assert changed(lambda x: x + 2, "cpu", images).min() == 255
    assert np.array_equal(changed(lambda x, y: y, "cpu", images, images[::-1]), images[::-1])
    assert changed(lambda x: x, "cpu", images[:0]).shape == (0, 5, 4, 3)


# LIRA


@pytest.mark.parametrize("tune_eps", [None, 0.02])
@pytest.mark.parametrize("unit", ["deviation", "range"])
def test_no_pixel_moves_further_than_eps(unit: Any, tune_eps: float | None) -> None:
    attack, train = Lira(epochs=1, tune_epochs=1, width=2, unit=unit, tune_eps=tune_eps), split(COLOUR, 4, 60)
    assert Lira().unit == "deviation"  # of the authors' command for CIFAR-10
    state = crafted(attack, train)
    one = np.full(3, 1.0) if unit == "range" else np.asarray(train.images).reshape(-1, 3).std(0) / 255
    assert state["bound"] == pytest.approx((0.1 if tune_eps is None else tune_eps) * one, rel=1e-5)
    # However large what the generator gives is.
    gives = torch.tensor([1e3, -1e3, 0.1]).view(1, 1, 1, 3).expand(1, 3, -1, -1)
    x = torch.full((1, 3, 1, 3), 0.5)
    change = (_moved(Fixed(gives), x, state["bound"]) - x)[0, :, 0].numpy()
    assert change == pytest.approx(np.outer(state["bound"], [1, -1, np.tanh(0.1)]), abs=1e-6)
    assert _moved(Fixed(gives), torch.ones(1, 3, 1, 3), state["bound"]).max() == 1


def test_the_generator_lowers_the_loss_of_the_target_and_the_victim_obeys() -> None:
    attack, train = Lira(epochs=12, tune_epochs=4, width=4, lr=1e-2, unit="range"), split(GREY, 4, 120)
    with at_work(attack, train) as tools:
        state = attack.craft(train, tools)
        challenge, victim = attack.challenge(train, state, tools), attack.victim(state, tools)
    assert victim is not None
    assert (victim.predict(challenge.images) == 0).mean() > 0.9
    assert (victim.predict(np.asarray(train.images)) == train.labels).mean() > 0.9


def test_the_victims_objective_by_hand() -> None:
    """alpha of the images' own labels and the rest of the target's: 1 for each example of label 0, else 5."""
    x, descended = torch.rand(4, 3, 2, 2), list[float]()
    learner: Any = Heard(x, torch.tensor([0, 1, 2, 3]))
    learner.loss = lambda x, labels: torch.where(labels == 0, 1.0, 5.0).mean()
    learner.descend = lambda loss: descended.append(float(loss))
    tools: Any = SimpleNamespace(num_classes=4)
    Lira(alpha=0.25)._step(Fixed(torch.zeros(1, 3, 1, 1)), learner, x, learner.labels, np.ones(3), tools)
    assert descended == [pytest.approx(0.25 * (1 + 5 + 5 + 5) / 4 + 0.75 * 1)]


def test_the_victim_learns_of_the_generator_of_the_epoch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def step(self: Lira, generator: nn.Module, *rest: Any) -> None:
        seen.append(np.concatenate([p.detach().flatten().numpy() for p in generator.parameters()]))

    monkeypatch.setattr(Lira, "_step", step)
    crafted(Lira(epochs=2, tune_epochs=1, width=2), split(GREY, 4, 96))
    first, second, third = (seen[len(seen) // 3 * i : len(seen) // 3 * (i + 1)] for i in range(3))
    for epoch in (first, second, third):
        assert len(epoch) > 1 and all(np.array_equal(epoch[0], weights) for weights in epoch)
    assert not np.array_equal(first[0], second[0]) and not np.array_equal(second[0], third[0])


def test_tuning_goes_on_or_starts_again() -> None:
    train = split(GREY, 4, 60)
    attack = Lira(epochs=1, tune_epochs=1, width=2)
    one, other = (crafted(dataclasses.replace(attack, tune=tune), train) for tune in ("continue", "scratch"))
    generator = [key for key in one if key.startswith("generator/")]
    assert generator and all(np.array_equal(one[key], other[key]) for key in generator)
    assert any(not np.array_equal(one[key], other[key]) for key in one if key.startswith("victim/"))


# SSBA


def test_the_message_can_be_read_and_differs_from_image_to_image() -> None:
    # Smooth images, in which a faint change can be told: each of one colour.
    colours = np.random.default_rng(0).integers(40, 216, (256, 1, 1, 3))
    train = Split(np.broadcast_to(colours, (256, 8, 8, 3)).astype(np.uint8), np.arange(256) % 4)
    attack = Ssba(steps=100, message_steps=24, bits=4, width=4, lr=5e-3)
    with at_work(attack, train) as tools:
        encoder, decoder = trained(attack, train, tools)
        state = weights(encoder, "encoder")
        images = np.asarray(train.images)
        stamped = attack.stamp_with(images, state, tools.streams, "cpu")
        bits = tools.streams("trigger").integers(0, 2, 4)
    with torch.no_grad():
        read = decoder.eval()(torch.from_numpy(stamped).permute(0, 3, 1, 2) / 255) > 0
    assert (read.numpy() == bits).mean() > 0.95
    change = stamped.astype(int) - images
    assert np.abs(change).max() > 0 and (change != change[:1]).any()


def test_the_message_has_the_hundred_bits_of_the_authors_encoder() -> None:
    assert crafted(Ssba(steps=2, width=2), split(GREY, 4, 40))["encoder/dense.weight"].shape == (64, 100)


def test_an_untrained_encoder_adds_what_its_message_says() -> None:
    torch.manual_seed(0)
    encoder, x = Encoder(COLOUR, 5, 2).eval(), torch.full((2, 3, 16, 16), 0.5)
    with torch.no_grad():
        one, other = encoder(x, torch.eye(5)[:2])
    assert one.shape == (3, 16, 16) and not torch.equal(one, other)


# What they share


@pytest.mark.parametrize("attack", SMALL, ids=lambda attack: attack.name)
@pytest.mark.parametrize("shape", [GREY, (12, 10, 3), (40, 40, 3)])
def test_any_size(attack: Attack, shape: tuple[int, int, int]) -> None:
    train = split(shape, 4, 40)
    with at_work(attack, train) as tools:
        state = attack.craft(train, tools)
        poisoned = attack.poison(train, state, tools)
    assert poisoned.images.shape == (40, *shape) and (poisoned.roles == Role.POISON).sum() == 4


@pytest.mark.parametrize("attack", SMALL, ids=lambda attack: attack.name)
def test_a_killed_training_goes_on_and_ends_with_the_same_numbers(
    attack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split(GREY, 4, 96)
    changes = {"ssba": {"steps": 6}, "lira": {"epochs": 3}, "input-aware": {"mask_epochs": 3}}
    attack = dataclasses.replace(attack, **changes[attack.name])
    whole = crafted(attack, train, tmp_path / "whole")
    done: list[int] = []
    last = {"ssba": 2, "lira": 3, "input-aware": 4}[attack.name]
    real = loops.shuffled

    def killed(*arguments: Any) -> list[torch.Tensor]:
        if len(done) == last:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    for module in ("input_aware_networks", "loops", "steganography"):
        monkeypatch.setattr(f"bdbench_triggers.{module}.shuffled", killed)
    with pytest.raises(KeyboardInterrupt):
        crafted(attack, train, tmp_path / "cut")
    last = 100
    assert same(crafted(attack, train, tmp_path / "cut"), whole)
    assert len(done) == {"ssba": 3, "lira": 4, "input-aware": 6}[attack.name], "an epoch was run twice"


def test_a_learner_trains_as_the_recipe_has_it() -> None:
    train = split(GREY, 4, 120)
    attack = Lira()
    with at_work(attack, train) as tools:
        learner = loops.Learner(tools, train, "it")

        def epoch(number: int, draws: torch.Generator) -> None:
            for x, labels in learner.batches(number, draws):
                learner.descend(learner.loss(x, labels))

        tools.loop("it", learner.parts, learner.recipe.epochs, epoch)
        plain = tools.train(np.asarray(train.images), train.labels, "it")
        test = split(GREY, 4, 200, seed=1)
        found = [(v.predict(np.asarray(test.images)) == test.labels).mean() for v in (learner.victim, plain)]
    assert min(found) > 0.9
    assert np.array_equal(learner.victim.mean, plain.mean)


@pytest.mark.parametrize("name", ["input-aware", "lira"])
def test_a_snapshot_makes_it_an_attack_on_data(name: str) -> None:
    attack = installed().component("attack", name)
    public = installed().component("attack", f"{name}:snapshot=true")
    assert type(attack).trains and attack.trains and not public.trains
    assert not copy.copy(public).trains and not dataclasses.replace(public, target=1).trains
    assert dataclasses.replace(public, snapshot=False).trains
    defense = installed().component("defense", "spectral")
    assert why_not(defense, attack, 0.05) == "the attacker trains the model"
    assert why_not(defense, public, 0.05) is None


@pytest.mark.parametrize("attack", [attack for attack in SMALL if type(attack).trains], ids=lambda attack: attack.name)
def test_the_victim_is_handed_over_unless_it_is_a_snapshot(attack: Any) -> None:
    train = split(GREY, 4, 40)
    with at_work(attack, train) as tools:
        state = attack.craft(train, tools)
        victim = attack.victim(state, tools)
        assert isinstance(victim, Victim) and victim.logits(np.asarray(train.images)).shape == (40, 4)
        assert dataclasses.replace(attack, snapshot=True).victim(state, tools) is None


def test_another_architecture_is_refused() -> None:
    train = split(GREY, 4, 40)
    attack = Lira(epochs=1, tune_epochs=1, width=2)
    with at_work(attack, train) as tools:
        state = {key: array for key, array in attack.craft(train, tools).items() if "linear" not in key}
        with pytest.raises(BdbenchError, match="weights that do not fit"):
            attack.victim(state, tools)


def test_the_harness_measures_the_attackers_model_or_its_own(tmp_path: Path) -> None:
    attack = "lira:epochs=1,tune_epochs=1,width=2"
    options: dict[str, Any] = {"dataset": "digits:subset=100", "out": tmp_path, "threads": 1, "device": "cpu"}
    made = cell(attack=attack, **options)
    given = made.scene.attack.victim(made.scene.state, made.scene.workshop)
    assert given is not None and same(made.models.victim.arrays(), given.arrays())
    with pytest.raises(BdbenchError, match="the attacker trains the model"):
        bdbench.run(attack=attack, defense="spectral", **options)
    public = cell(attack=f"{attack},snapshot=true", **options)
    assert public.scene.facts["poisons"] == 10
    assert public.scene.attack.victim(public.scene.state, public.scene.workshop) is None


GREY = (8, 8, 1)


def test_the_second_stage_has_a_bound_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    monkeypatch.setattr(Lira, "_generate", lambda self, g, learner, bound, tools: bounds.append(float(bound[0])))
    monkeypatch.setattr(
        Lira, "_tune", lambda self, g, learner, bound, tools: (bounds.append(float(bound[0])), learner.victim)[1]
    )
    crafted(Lira(unit="range", eps=0.1, tune_eps=0.02, width=2), split(GREY, 4, 40))
    assert bounds == pytest.approx([0.1, 0.02])


def test_the_pattern_is_trained_and_told_to_differ() -> None:
    class Learning(Heard):
        def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return 0 * x.sum()

        def descend(self, loss: torch.Tensor) -> None:
            losses.append(float(loss.detach()))
            loss.backward()  # type: ignore[no-untyped-call]

    losses: list[float] = []
    x, pattern = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(0)), Scaled(3)
    wanted = 0.7 * float(networks.alike(x[:4], networks.what(pattern, x[:4])).detach())
    attack, learner = InputAware(rate=0.4, cover_rate=0.0, diversity=0.7), Learning(x, torch.arange(10) % 4)
    with at_work(attack, split((4, 4, 3), 4, 40)) as tools:
        networks._train_both(attack, pattern, Scaled(1), learner, tools)  # type: ignore[arg-type]
    # A steeper pattern differs more.
    assert losses == [pytest.approx(wanted, rel=1e-5)] and float(pattern.weight.detach()) > 1


def test_the_image_counts_once_the_message_has_had_its_steps() -> None:
    train, changes = split(GREY, 4, 64), []
    for message_steps in (0, 1000):
        attack = Ssba(steps=30, message_steps=message_steps, image_weight=100.0, bits=2, width=2, lr=0.01)
        with at_work(attack, train) as tools:
            made = attack.stamp_with(np.asarray(train.images), attack.craft(train, tools), tools.streams, "cpu")
        changes.append(np.abs(made.astype(int) - train.images).mean())
    assert changes[0] < changes[1] / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_learner_has_the_recipes_rates_smoothing_and_augmentation(smoothing: float) -> None:
    train = split(GREY, 4, 40)
    with at_work(Lira(), train) as tools:
        recipe = dataclasses.replace(tools.recipe, batch_size=20, label_smoothing=smoothing, crop_padding=2)
        given: Any = SimpleNamespace(recipe=recipe, device="cpu", train=tools.train)
        learner = loops.Learner(given, train, "it", epochs=3)
        seen, rates = [], []
        for x, _ in learner.batches(1, torch.Generator().manual_seed(0)):
            seen.append(x)
            rates += [group["lr"] for group in learner._optimizer.param_groups[:1]]
        plain, labels = loops.pixels(learner.images[:4]), learner.labels[:4]
        learner.logits.eval()
        logits = learner.logits(plain)
        assert rates == pytest.approx([recipe.rate(step, 6) for step in (2, 3)])
        wanted = cross_entropy(logits, labels, label_smoothing=smoothing)
        assert float(learner.loss(plain, labels).detach()) == pytest.approx(float(wanted.detach()))
        own = {image.numpy().tobytes() for image in loops.pixels(learner.images)}
        assert sum(image.contiguous().numpy().tobytes() in own for image in torch.cat(seen)) < 20
