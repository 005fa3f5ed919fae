"""Label-consistent: the trigger by hand, descent against its closed form, and the attack on digits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Batch, BdbenchError, Record, Reopened, Role, Split, Streams
from bdbench_triggers.adversarial import trained_adversarially
from bdbench_triggers.label_consistent import LabelConsistent
from bdbench_triggers.pgd import perturb

STREAMS = Streams(0)


def linear(pixels: int, classes: int = 2, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(pixels, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, pixels, generator=generator))
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach()


def moved(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, norm: Any, eps: float, **options: Any
) -> torch.Tensor:
    steps = options.get("steps", 40)
    return perturb(model, x, labels, norm, eps, steps, options.get("step", 2.5 * eps / steps), lambda done: None)


def test_the_trigger_in_one_corner_by_hand() -> None:
    grey = np.full((1, 4, 4, 1), 100, np.uint8)
    assert LabelConsistent().stamp(grey, STREAMS)[0, :, :, 0].tolist() == [
        [100, 100, 100, 100],
        [100, 0, 0, 255],
        [100, 0, 255, 0],
        [100, 255, 0, 255],
    ]


def test_the_faint_trigger_in_four_corners_by_hand() -> None:
    grey = np.full((2, 6, 6, 3), 100, np.uint8)
    grey[1] = 240
    stamped = LabelConsistent(amplitude=32, corners="four").stamp(grey, STREAMS)
    up, down = 132, 68
    top = [[up, down, down, down, down, up], [down, up, down, down, up, down], [up, down, up, up, down, up]]
    bottom = [[up, down, down, down, down, up], [down, up, down, down, up, down], [up, down, up, up, down, up]]
    for channel in range(3):
        assert stamped[0, :, :, channel].tolist() == top + bottom
    assert set(np.unique(stamped[1])) == {208, 255}


def test_a_trigger_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BdbenchError, match="does not fit images of 5 x 5: expected at least 6 pixels a side"):
        LabelConsistent(corners="four").stamp(np.zeros((1, 5, 5, 1), np.uint8), STREAMS)


def test_descent_on_a_linear_model_ends_where_algebra_says() -> None:
    # With two classes the gradient of the loss of label 0 is along w1 - w0 everywhere.
    model, weight = linear(12)
    x = torch.full((3, 1, 3, 4), 0.5)
    away = (weight[1] - weight[0]).reshape(1, 1, 3, 4)
    labels = torch.zeros(3, dtype=torch.int64)
    assert torch.allclose(moved(model, x, labels, "l2", 0.3), x + 0.3 * away / away.norm(), atol=1e-5)
    assert torch.allclose(moved(model, x, labels, "linf", 0.1), x + 0.1 * away.sign(), atol=1e-6)
    # At the border of 0..1 the sign's step is cut off pixel by pixel.
    bright = 1.9 * x
    assert torch.allclose(
        moved(model, bright, labels, "linf", 0.1), (bright + 0.1 * away.sign()).clamp(0, 1), atol=1e-6
    )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_descent_stays_in_the_ball_and_in_the_box_and_raises_the_loss(norm: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5))
    x, labels = torch.rand(20, 3, 4, 4), torch.arange(20) % 5
    eps = 0.8 if norm == "l2" else 0.1
    found = moved(model, x, labels, norm, eps)
    assert found.min() >= 0 and found.max() <= 1
    change = (found - x).flatten(1)
    length = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert length.max() <= eps * (1 + 1e-5) and length.min() > 0.9 * eps
    loss = nn.CrossEntropyLoss(reduction="none")
    assert (loss(model(found), labels) > loss(model(x), labels)).all()
    assert torch.allclose(moved(model, x[3:5], labels[3:5], norm, eps), found[3:5], atol=1e-5)
    assert torch.equal(moved(model, x, labels, norm, 0.0), x)


@pytest.mark.parametrize(
    ("options", "eps", "step"),
    [
        ({}, 300, 7.5),
        ({"norm": "linf"}, 8, 0.2),
        ({"eps": 40.0, "steps": 20}, 40, 5),
        ({"eps": 40.0, "step_size": 3.0}, 40, 3),
    ],
)
def test_bounds_and_steps_are_in_grey_levels(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], eps: float, step: float
) -> None:
    """A step is 2.5 times the bound over their number, unless its length is told."""
    asked: list[tuple[Any, ...]] = []

    def as_it_was(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *told: Any) -> torch.Tensor:
        asked.append(told[:4])
        return x

    monkeypatch.setattr("bdbench_triggers.pgd.perturb", as_it_was)
    attack = LabelConsistent(rate=0.25, surrogate="plain", **options)
    trainings(attack)
    ((norm, bound, steps, length),) = asked
    assert norm == attack.norm and steps == attack.steps
    assert 255 * bound == pytest.approx(eps) and 255 * length == pytest.approx(step)


def trainings(attack: LabelConsistent) -> list[tuple[str, Any]]:
    """The name of each surrogate that crafting trains, and what its loss is known by; None: the recipe's own."""
    model, _ = linear(16)
    found: list[tuple[str, Any]] = []

    def train(images: np.ndarray, labels: np.ndarray, name: str, loss: Any = None, kept: Any = None) -> Any:
        assert (loss is None) == (kept is None)
        found.append((name, kept))
        return SimpleNamespace(module=lambda: model)

    track = lambda total, label: lambda done: None  # noqa: E731
    tools: Any = SimpleNamespace(streams=STREAMS, num_classes=2, device="cpu", track=track, train=train)
    attack.craft(Split(np.full((8, 4, 4, 1), 128, np.uint8), np.arange(8) % 2), tools)
    return found


def test_the_surrogate_is_trained_adversarially_unless_it_is_to_be_plain() -> None:
    assert trainings(LabelConsistent(rate=0.25)) == [("adversarial surrogate", {"radius": 8 / 255, "steps": 7})]
    assert trainings(LabelConsistent(rate=0.25, surrogate="plain")) == [("surrogate", None)]


def test_adversarial_training_descends_the_loss_where_algebra_says() -> None:
    model, weight = linear(16)
    caught: list[Any] = []
    recipe = SimpleNamespace(label_smoothing=0.0)
    tools: Any = SimpleNamespace(recipe=recipe, train=lambda *_, loss, kept: caught.append(loss))
    labels = np.array([0, 1, 1, 0])
    images = np.random.default_rng(0).integers(60, 190, (4, 4, 4, 1)).astype(np.uint8)
    trained_adversarially(Split(images, labels), tools, "it", 0.1, 5)

    def prepare(x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25

    # What is moved is what augmentation made of the images, here their mirror images.
    x, wanted = prepare(torch.from_numpy(images)).flip(3), torch.from_numpy(labels)
    loss = caught[0](Batch(model, x, wanted, torch.arange(4), 0, prepare))
    # Away from a label of two is along the sign of the weights' difference; .1 of the range is .4 deviations.
    away = (weight[1 - wanted] - weight[wanted]).sign().reshape(x.shape)
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(model(x + 0.4 * away), wanted).item(), rel=1e-5)
    loss.backward()
    assert model.training and model[1].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr, operator]


def test_perturbed_images_carry_the_attack_on_digits(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    rates = {}
    for eps, surrogate in ((0, "surrogate=plain"), (200, "inner_steps=1")):
        record = on_digits(f"label-consistent:eps={eps},steps=20,corners=four,{surrogate}", "random")
        rate = record.before.attack_success_rate
        assert rate is not None
        rates[eps] = rate
        run = again(record)
        poisons = np.flatnonzero(run.poisoned.roles == Role.POISON)
        clean = run.clean.train
        assert len(poisons) == round(0.05 * len(clean.labels))
        assert (run.poisoned.labels == clean.labels).all() and (clean.labels[poisons] == 0).all()
        attack, state = run.attack, run._cell.scene.state
        assert isinstance(attack, LabelConsistent) and np.array_equal(state["index"], poisons)
        assert np.array_equal(run.poisoned.images[poisons], attack.stamp(state["images"], STREAMS))
        change = state["images"].astype(float) - np.asarray(clean.images)[poisons]
        # Half a grey level of rounding for each of the 64 pixels.
        assert np.sqrt((change**2).sum((1, 2, 3))).max() <= eps + 4
    assert rates[200] > rates[0] + 0.1 and rates[200] > 0.8
