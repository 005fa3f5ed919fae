from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Batch, Recipe, Record, Streams, TrainingView
from bdbench_baselines import sensitivity
from bdbench_baselines.d_br import BackdoorRemoval
from bdbench_baselines.d_st import SecureTraining
from bdbench_baselines.sensitivity import Split, consistency, distinguished, nearness, transformed


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 9, 17)])
def test_turns_and_moves_are_torchvisions(shape: tuple[int, int, int]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    chance, torch_seed = np.random.default_rng(0), torch.manual_seed(0)
    x = torch.randint(1, 255, (12, *shape), generator=torch_seed).double()
    angles, shifts = chance.uniform(-180, 180, 12), chance.integers(-2, 3, (12, 2))
    found = transformed(x, torch.from_numpy(np.radians(angles)), torch.from_numpy(shifts).double())
    for image, made, angle, (down, right) in zip(x, found, angles, shifts, strict=True):
        turned = transforms.rotate(image, float(angle), InterpolationMode.NEAREST)
        expected = transforms.affine(turned, 0, [int(right), int(down)], 1, [0, 0], InterpolationMode.NEAREST)
        assert (made == expected).double().mean() > 0.97


def test_consistency_is_the_mean_square_of_what_the_features_move() -> None:
    images = np.full((3, 8, 8, 1), 10, np.uint8)
    images[1] = 0
    model: Any = SimpleNamespace(features=lambda images: np.stack([images.sum((1, 2, 3)), np.ones(len(images))], 1))
    scores = consistency(model, images, Streams(0))
    chance = Streams(0)("transformations")
    angles, shifts = chance.uniform(-math.pi, math.pi, 3), np.rint(chance.uniform([-1.6] * 2, [1.6] * 2, (3, 2)))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    moved = transformed(x, torch.from_numpy(angles), torch.from_numpy(shifts)).sum((1, 2, 3)).numpy()
    assert scores == pytest.approx((images.sum((1, 2, 3)) - moved) ** 2 / 2)
    assert scores[1] == 0 and scores[0] > 0 and scores.dtype == np.float64


def test_the_split_by_hand_and_for_few() -> None:
    split = distinguished(np.arange(20.0)[::-1], 0.2, 0.05, Streams(0))
    assert np.flatnonzero(split.clean).tolist() == [16, 17, 18, 19] and np.flatnonzero(split.poisoned).tolist() == [0]
    for n in (2, 3, 20):
        split = distinguished(np.zeros(n), 0.4, 0.4, Streams(0))
        assert split.clean.any() and split.poisoned.any() and not (split.clean & split.poisoned).any()
    # Chance decides between equals, not the place.
    assert len({distinguished(np.zeros(40), 0.2, 0.05, Streams(s)).clean.tobytes() for s in range(3)}) == 3


def test_nearness_of_centres_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    found = nearness(features, torch.tensor([7, 7, 2, 4]))
    assert found.item() == pytest.approx((0.5**0.5 + 0.5**0.5 + 0) * 2 / 9)
    assert nearness(features, torch.zeros(4, dtype=torch.int64)).item() == 0


def told(monkeypatch: pytest.MonkeyPatch, clean: list[int], poisoned: list[int], n: int) -> None:
    split = Split(np.isin(np.arange(n), clean), np.isin(np.arange(n), poisoned))
    monkeypatch.setattr(sensitivity, "told_apart", lambda *_: split)


def test_d_br_ascends_the_poisoned_and_descends_the_clean_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [1, 4, 5], [2], 6)
    given: list[Any] = []
    tools: Any = SimpleNamespace(
        train=lambda *arguments, **options: given.append((arguments, options)),
        recipe=Recipe(10, 2, 0.1),
        device="cpu",
        victim="victim",
    )
    view = TrainingView(np.arange(6, dtype=np.uint8).repeat(4).reshape(6, 2, 2, 1), np.arange(6) % 3, 3)
    BackdoorRemoval(turns=5, length=20).train(view, tools)
    (images, labels, _), options = given[0]
    assert images[:, 0, 0, 0].tolist() == [1, 2, 4, 5] and labels.tolist() == [1, 2, 1, 2]
    assert options["start"] == "victim" and options["recipe"].epochs == 20
    # 5 turns of 1 + 3 epochs of 2 steps at half of the peak.
    assert options["recipe"].lr * 0.5 * 40 == pytest.approx(20 * 0.1)
    logits = torch.randn(4, 3)
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    relearnt = (each[0] + each[2] + each[3]) / 3
    for epoch, expected in ((0, -each[1]), (1, relearnt), (3, relearnt), (4, -each[1])):
        batch = Batch(lambda x: logits, images, torch.from_numpy(labels), torch.arange(4), epoch, None)  # type: ignore[arg-type]
        assert options["loss"](batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("positives", ["label", "clean"])
def test_d_st_believes_the_labels_of_the_clean_alone(positives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_baselines import contrast

    told(monkeypatch, [0, 1, 4], [3], 5)
    given: dict[str, Any] = {}
    monkeypatch.setattr(contrast, "pretrained", lambda view, tools, **options: given.update(options))
    monkeypatch.setattr(contrast, "headed", lambda _, images, labels, tools, loss, **options: given.update(loss=loss))
    tools: Any = SimpleNamespace(device="cpu")
    labels = np.array([0, 0, 0, 1, 1])
    SecureTraining(positives=positives).train(TrainingView(np.zeros((5, 2, 2, 1), np.uint8), labels, 2), tools)
    batch = Batch(None, None, torch.from_numpy(labels), torch.arange(5), 0, None)  # type: ignore[arg-type]
    alike = given["alike"](batch).int()
    assert alike[2].tolist() == [0] * 5 and alike[3].tolist() == [0] * 5
    assert alike[0].tolist() == ([1, 1, 1, 0, 0] if positives == "label" else [1, 1, 0, 0, 0])
    assert alike[4].tolist() == ([0, 0, 0, 1, 1] if positives == "label" else [0, 0, 0, 0, 1])
    # What is left are 0, 1, 3 and 4, of which 3 is poisoned.
    logits, kept = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    each = torch.nn.functional.cross_entropy(logits, kept, reduction="none")
    batch = Batch(None, None, kept, torch.arange(4), 0, None)  # type: ignore[arg-type]
    expected = (each[0] + each[1] + each[3]) / 3 - 0.001 * each[2]
    assert given["loss"](logits, batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_it_ends_the_backdoor_of_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "d-br")
    assert record.after is not None and record.after.clean_accuracy > 0.75
    assert record.after.attack_success_rate is not None and record.after.attack_success_rate < 0.1
