"""Attacks that craft their trigger on a surrogate: each search against what algebra says, and going on after a kill."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter1d
from torch import nn

from bdbench import Attack, BdbenchError, Record, Role, Split, Streams, TriggerAttack, Victim
from bdbench.testing.samples import workshop
from bdbench_triggers.color import Color
from bdbench_triggers.connectivity import incoming
from bdbench_triggers.low_frequency import LowFrequency, _deepfool, _filter
from bdbench_triggers.luv import to_luv, to_rgb
from bdbench_triggers.trojan_patch import TrojanPatch

STREAMS = Streams(0)


class Rectified(nn.Module):
    """Features relu(W x), logits V features."""

    def __init__(self, inner: torch.Tensor, outer: torch.Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(inner.shape[1], inner.shape[0], bias=False)
        self.last = nn.Linear(outer.shape[1], outer.shape[0], bias=False)
        with torch.no_grad():
            self.inner.weight.copy_(inner)
            self.last.weight.copy_(outer)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x.flatten(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


def tools_with(network: nn.Module, channels: int = 1) -> Any:
    """A workshop whose surrogate is ``network``."""
    victim = Victim(network, np.full(channels, 0.5, np.float32), np.full(channels, 0.25, np.float32), "cpu")
    return SimpleNamespace(
        train=lambda *_: victim,
        shared_streams=STREAMS,
        device="cpu",
        num_classes=4,
        track=lambda *_: lambda steps: None,
        saved=lambda config, make: make(),
        saved_each=lambda configs, make: (make(i) for i in range(len(configs))),
        count_models=lambda number: None,
    )


def interrupted(tools: Any, after: int) -> Any:
    """The same workshop, killed as it begins piece ``after``."""
    kept, count = tools.saved, iter(range(after))

    def saved(config: Any, make: Callable[[], Any]) -> Any:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return kept(config, make)

    tools.saved = saved
    tools.saved_each = lambda configs, make: (saved(c, functools.partial(make, i)) for i, c in enumerate(configs))
    return tools


def assert_goes_on(attack: Attack, work: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill ``attack`` goes on from its pieces, each a call of ``work``, and ends where it would have."""
    train = Split(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8), np.arange(40) % 4)
    begin = functools.partial(workshop, attack, train, 4, 0)
    calls: list[int] = []
    made = getattr(type(attack), work)

    def counted(self: Attack, *args: Any) -> Any:
        calls.append(1)
        return made(self, *args)

    monkeypatch.setattr(type(attack), work, counted)
    whole = attack.craft(train, begin(folder / "whole"))
    needed = len(calls)
    with pytest.raises(KeyboardInterrupt):
        attack.craft(train, interrupted(begin(folder / "killed"), 2))
    assert len(calls) == needed + 2
    again = attack.craft(train, begin(folder / "killed"))
    assert len(calls) == 2 * needed and needed > 2
    for name, array in whole.items():
        assert np.array_equal(array, again[name])


@pytest.mark.parametrize("shape", [(9, 12, 1), (28, 28, 1), (224, 224, 3)])
@pytest.mark.parametrize(
    "attack",
    [
        TrojanPatch(steps=5, rate=0.1),
        LowFrequency(passes=1, examples=2, rate=0.1),
        Color(particles=2, rounds=1, examples=10, epochs=1, rate=0.1),
    ],
    ids=lambda a: a.name,
)
def test_images_of_any_size(attack: TriggerAttack, shape: tuple[int, int, int], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(np.uint8)
    train = Split(images, np.arange(20) % 4)
    tools = workshop(attack, train, 4, 0, tmp_path)
    made = attack.poison(train, attack.craft(train, tools), tools)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 2 and (made.images[poisons] != images[poisons]).any((1, 2, 3)).all()


# Trojan patch


def test_the_square_by_hand_and_half_through() -> None:
    attack = TrojanPatch(pattern="fixed", opacity=0.5)
    state = attack.craft(Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2)), tools_with(nn.Identity()))
    # .07 of 64 pixels is a square of 2 x 2; 20 / 224 of 8 pixels is a margin of 1.
    assert np.argwhere(state["mask"]).tolist() == [[5, 5], [5, 6], [6, 5], [6, 6]]
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    stamped = attack.stamp_with(images, state, STREAMS, "cpu")
    assert np.array_equal(stamped[1, 5:7, 5:7], np.rint(50 + 0.5 * state["mark"][5:7, 5:7]))
    assert (stamped != images).any(-1)[0].sum() == 4 and (images == 100).all()


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (28, 40), (224, 224)])
def test_triggers_cover_the_share_that_is_asked_for(shape: tuple[int, int]) -> None:
    for area in (0.07, 0.3):
        pixels = area * shape[0] * shape[1]
        assert TrojanPatch(shape="watermark", area=area)._mask(*shape).sum() == round(pixels)
        side = TrojanPatch(area=area)._mask(*shape).sum() ** 0.5
        assert side == round(pixels**0.5)
    drawn = TrojanPatch(shape="watermark")._mask(*shape)
    middle, ends = (slice(n // 2 - 1, n // 2 + 1) for n in shape), [drawn[:, : shape[1] // 4], drawn[: shape[0] // 4]]
    # Of 8 x 8 pixels, 4 are all there is of it.
    assert drawn[tuple(middle)].any() and (shape == (8, 8) or all(end.any() for end in ends))


def test_the_patch_excites_the_strongest_neuron_that_responds() -> None:
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(5, 64, generator=generator)
    inner[1] = -inner[0].abs()  # never responds to light
    inner[0] = inner[1].abs() * torch.where(torch.arange(64) % 3 == 0, -0.2, 1.0)
    outer = torch.ones(3, 5) * torch.tensor([2.0, 9.0, 1.0, 1.0, -1.0])
    attack = TrojanPatch(steps=60, lr=0.05, goal_value=1e4, neuron="outgoing")
    train = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    state = attack.craft(train, tools_with(Rectified(inner, outer)))
    assert state["neurons"].tolist() == [0]
    # The activation is linear where it is not 0: every pixel ends at the border that its weight points to.
    wanted = np.where(inner[0].reshape(8, 8).numpy() > 0, 255, 0)
    assert np.array_equal(state["mark"][..., 0][state["mask"]], wanted[state["mask"]])
    # A goal that can be reached is reached, and not passed.
    near = TrojanPatch(steps=60, goal_value=60.0, neuron="outgoing").craft(train, tools_with(Rectified(inner, outer)))
    assert 0 < near["mark"][near["mask"]].mean() < 255


def test_what_cannot_be_excited_is_refused() -> None:
    train = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    network = Rectified(torch.cat([torch.ones(2, 64), -torch.ones(1, 64)]), torch.ones(4, 3))
    with pytest.raises(BdbenchError, match="neurons=3 is not allowed: expected at most the 2 of the surrogate's 3"):
        TrojanPatch(neurons=3, steps=1).craft(train, tools_with(network))
    network.last = nn.Identity()  # type: ignore[assignment]
    network.inner = nn.Linear(64, 10)
    with pytest.raises(BdbenchError, match="neuron=outgoing needs a model with a linear layer after its features"):
        TrojanPatch(steps=1, neuron="outgoing").craft(train, tools_with(network))


def test_the_most_connected_neuron_is_that_of_the_paper_unless_the_codes_is_asked_for() -> None:
    # All of three neurons respond. Into them go weights of 1, 3 and 2 a pixel, out of them 1 + 4, 1 + 1 and 2 + 2.
    inner = torch.tensor([[1.0], [3.0], [2.0]]).expand(3, 64)
    outer = torch.tensor([[1.0, -1.0, 2.0], [-4.0, 1.0, 2.0]])
    train, tools = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)), tools_with(Rectified(inner, outer))
    assert TrojanPatch(steps=1, neurons=2).craft(train, tools)["neurons"].tolist() == [1, 2]
    assert TrojanPatch(steps=1, neurons=2, neuron="outgoing").craft(train, tools)["neurons"].tolist() == [0, 2]


def test_connections_by_hand() -> None:
    layers = nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(-12.0, 12.0).reshape(3, 2, 2, 2))  # type: ignore[operator, union-attr]
    image = torch.zeros(1, 2, 5, 6)
    # Sums of 12 + ... + 5, of 4 + ... + 1 + 0 + ... + 3 and of 4 + ... + 11; of 4 x 5 places pooling leaves 2 x 2.
    assert incoming(network, lambda: network(image)[0]).tolist() == [68] * 4 + [16] * 4 + [60] * 4
    # Where features of an earlier layer come first, as in a DenseNet, those are not the channels of the last.
    with pytest.raises(BdbenchError, match="or neuron=outgoing"):
        incoming(network, lambda: torch.cat([torch.zeros(12), network(image)[0]]))
    with pytest.raises(BdbenchError, match="or neuron=outgoing"):
        incoming(nn.Identity(), lambda: torch.zeros(3))


# Low-frequency


@pytest.mark.parametrize(("length", "sigma"), [(32, 6.0), (8, 1.5), (50, 2.2)])
def test_the_filter_is_scipys(length: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, length))
    radius = int(np.ceil(2.5 * sigma))
    wanted = gaussian_filter1d(values, sigma, mode="constant", radius=radius)
    assert np.allclose(values @ _filter(length, sigma).T, wanted, atol=1e-6)


def linear(weight: torch.Tensor) -> nn.Module:
    """Logits of images with as many pixels as ``weight`` (classes, pixels)."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(nn.Flatten(), layer)


def test_deepfool_goes_straight_to_the_border_of_a_linear_model() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, image = torch.randn(3, 12, generator=generator), torch.rand(1, 3, 4, generator=generator)
    model = linear(weight[:2])
    label = int(model(image[None]).argmax())
    gap = (weight[label] - weight[1 - label]) @ image.flatten()
    across = (weight[1 - label] - weight[label]).reshape(1, 3, 4)
    found = _deepfool(model, image, 1 - label)
    # The projection onto the border, and 2 % more.
    assert found is not None and torch.allclose(found, 1.02 * gap / across.norm() ** 2 * across, atol=1e-6)
    unmoved = _deepfool(model, image, label)
    assert unmoved is not None and not unmoved.any()
    # Another class in between calls for more steps.
    for target in range(3):
        found = _deepfool(linear(weight), image, target)
        assert found is not None and linear(weight)((image + found)[None]).argmax() == target
    assert _deepfool(linear(torch.zeros(2, 12)), image, 1) is None


def test_the_smooth_trigger_is_bounded_smooth_and_fools() -> None:
    # Class 1 is a bright left half, class 0 a bright right one: both are smooth.
    light = torch.ones(16, 16)
    light[:, 8:] = -1
    network = Rectified(torch.stack([-light.flatten(), light.flatten()]), torch.eye(2))
    rng = np.random.default_rng(0)
    images = rng.integers(90, 120, (60, 16, 16, 1)).astype(np.uint8)
    images[..., 8:, :] += 12
    attack = LowFrequency(target=1, bound=51, fooled=0.9, passes=4)
    state = attack.craft(Split(images, np.zeros(60, np.int64)), tools_with(network))
    trigger = state["trigger"][..., 0]
    assert trigger.min() == 0 and trigger.max() == pytest.approx(51) and state["fooled"] >= 0.9
    assert trigger[:, :8].mean() > trigger[:, 8:].mean() + 10
    energy = dctn(trigger, norm="ortho") ** 2
    assert energy[:4, :4].sum() > 0.99 * energy.sum()
    stamped = attack.stamp_with(images, state, STREAMS, "cpu")
    assert np.array_equal(stamped, np.rint(np.clip(images + state["trigger"], 0, 255)))
    victim = tools_with(network).train()
    changed = (victim.predict(stamped) != victim.predict(images)).mean()
    assert changed == pytest.approx(float(state["fooled"]), abs=0.05)  # rounded to grey levels


def test_a_search_that_stands_still_ends() -> None:
    network = Rectified(torch.zeros(2, 64), torch.eye(2))
    calls: list[int] = []
    tools = tools_with(network)
    tools.saved = lambda config, make: (calls.append(config["pass"]), make())[1]
    state = LowFrequency(target=1).craft(Split(np.full((6, 8, 8, 1), 90, np.uint8), np.zeros(6, np.int64)), tools)
    assert calls == [0, 1, 2, 3, 4] and not state["trigger"].any()


def test_low_frequency_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = LowFrequency(passes=4, examples=10, fooled=1.0, bound=10)
    assert_goes_on(attack, "_improved", tmp_path, monkeypatch)


# Color


def test_luv_of_known_colours_and_back() -> None:
    # White, red, green and blue of sRGB under D65, as published tables have them.
    known = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 175.01, 37.76),
        (0, 255, 0): (87.73, -83.08, 107.40),
        (0, 0, 255): (32.30, -9.41, -130.34),
        (0, 0, 0): (0.0, 0.0, 0.0),
    }
    found = to_luv(torch.tensor(list(known)).float() / 255)
    assert torch.allclose(found, torch.tensor(list(known.values())), atol=0.02)
    steps = torch.tensor([0, 1, 5, 10, 60, 128, 200, 254, 255])
    grid = torch.cartesian_prod(steps, steps, steps)
    assert torch.equal((to_rgb(to_luv(grid.float() / 255)) * 255).round().long(), grid)


def test_shifts_by_hand() -> None:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    images[0, 0, 0] = (250, 100, 5)
    shift = {"shift": np.array([10.0, -20.4, -10.0])}
    assert Color(space="rgb").stamp_with(images, shift, STREAMS, "cpu")[0, 0, 0].tolist() == [255, 80, 0]
    grey = images[..., :1]
    assert Color().stamp_with(grey, {"shift": np.array([7.0])}, STREAMS, "cpu")[0, 0].ravel().tolist()[:2] == [255, 7]
    middle = np.full((1, 8, 8, 3), 119, np.uint8)  # L* = 50
    lit = Color().stamp_with(middle, {"shift": np.array([10.0, 0, 0])}, STREAMS, "cpu")
    assert set(lit.ravel().tolist()) == {145}  # L* = 60
    redder = Color().stamp_with(middle, {"shift": np.array([0, 20.0, 0])}, STREAMS, "cpu")[0, 0, 0].astype(int)
    assert redder[0] > 119 > redder[1]
    assert np.array_equal(Color().stamp_with(images, {"shift": np.zeros(3)}, STREAMS, "cpu"), images)


def test_the_swarm_finds_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    goal = np.array([12.0, -7.0, 3.0])

    def tried(self: Color, *args: Any) -> dict[str, np.ndarray]:
        shifts, index = args[-2:]
        # Beyond a border everything is unnatural, however good it looks.
        return {"score": np.array(((shifts[index] - goal) ** 2).sum() if shifts[index][0] < 13 else 1e6)}

    monkeypatch.setattr(Color, "_tried", tried)
    train = Split(np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 4)
    state = Color(particles=20, rounds=60).craft(train, tools_with(Rectified(torch.ones(2, 192), torch.ones(4, 2)), 3))
    assert np.abs(state["shift"] - goal).max() < 1
    few = Color(particles=20, rounds=1).craft(train, tools_with(Rectified(torch.ones(2, 192), torch.ones(4, 2)), 3))
    assert state["score"] < few["score"] / 10


def test_a_shift_that_is_learnt_is_better_and_an_unnatural_one_is_worst() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(80, 160, (60, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(60) % 3 + 1
    network = Rectified(torch.randn(8, 192, generator=torch.Generator().manual_seed(0)) / 10, torch.zeros(4, 8))
    surrogate = tools_with(network, 3).train().module()
    shifts = np.array([[0.0, 0, 0], [15.0, 15, 15], [60.0, 60, 60], [90.0, 90, 90]])
    attack = Color(space="rgb", epochs=30)
    poisons, others = np.arange(0, 60, 6), np.arange(60)
    given = (images, labels, poisons, others, surrogate, 0, "cpu", shifts)
    scores = [float(attack._tried(*given, i)["score"]) for i in range(4)]  # type: ignore[arg-type]
    assert scores[1] < scores[0] < 1e6 < scores[2] < scores[3]
    # Ten images with a wrong label are learnt by heart, but no shift of none is: it is tried on others as well.
    assert scores[0] > 1


def test_color_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_goes_on(Color(particles=3, rounds=2, examples=20, epochs=1), "_tried", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["trojan-patch", "low-frequency:passes=1", "color:rounds=2"])
def test_they_work_on_digits(attack: str, on_digits: Callable[..., Record]) -> None:
    before = on_digits(attack, "random").before
    assert before.attack_success_rate is not None and before.attack_success_rate > 0.8
    assert before.clean_accuracy > 0.95
