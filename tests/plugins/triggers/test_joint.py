"""WaNet and Bpp trained by the attacker: what is in a batch, and the attacks on digits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Batch, BdbenchError, Covers, Record, Split, Streams
from bdbench_triggers.bpp_trained import BppTrained
from bdbench_triggers.joint import trained_jointly
from bdbench_triggers.wanet_trained import WaNetTrained

STREAMS = Streams(0)
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8), np.arange(200) % 10)
IMAGES = np.asarray(SPLIT.images)


class Recorder(torch.nn.Module):
    """Keeps what it is shown; the brighter an image, the more of the last label."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(10.0) / 10)
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(x)
        return x.mean((1, 2, 3))[:, None] * self.weight


def workshop(caught: list[Any]) -> Any:
    def train(images: np.ndarray, labels: np.ndarray, name: str, *, loss: Any, kept: Any) -> str:
        assert images is IMAGES and labels is SPLIT.labels
        caught.append(loss)
        return "the victim"

    recipe = SimpleNamespace(label_smoothing=0.0)
    return SimpleNamespace(streams=STREAMS, num_classes=10, device="cpu", recipe=recipe, train=train)


def batch(index: np.ndarray, epoch: int = 0) -> tuple[Batch, Recorder]:
    network = Recorder()

    def prepare(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2).float() / 255

    labels = torch.from_numpy(SPLIT.labels[index])
    x = prepare(torch.from_numpy(IMAGES[index]))
    return Batch(network, x, labels, torch.from_numpy(index), epoch, prepare), network


def shown(attack: Covers, index: np.ndarray, epoch: int = 0) -> np.ndarray:
    """What the network sees of a batch, uint8 (b, 8, 8, 1)."""
    caught: list[Any] = []

    def cover(chosen: np.ndarray, batch: Batch, stream: np.random.Generator) -> np.ndarray:
        return IMAGES[chosen] ^ 255

    assert trained_jointly(attack, SPLIT, workshop(caught), cover) == "the victim"
    given, network = batch(index, epoch)
    caught[0](given)
    return (network.shown[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()


def kinds(images: np.ndarray, index: np.ndarray, attack: Covers) -> list[str]:
    """Which of a batch are stamped, covers or clean."""
    ways = {"clean": IMAGES[index], "cover": IMAGES[index] ^ 255, "stamped": attack.stamp(IMAGES[index], STREAMS)}
    return [next(name for name, way in ways.items() if np.array_equal(way[i], image)) for i, image in enumerate(images)]


def test_shares_of_a_batch_are_attacked_and_covered_and_the_rest_is_clean() -> None:
    attack = WaNetTrained(rate=0.1, cover_rate=0.25)
    counts = []
    for epoch in range(60):
        index = np.random.default_rng(epoch).permutation(200)[:28]
        found = kinds(shown(attack, index, epoch), index, attack)
        assert found == sorted(found, key=["stamped", "cover", "clean"].index)
        counts.append((found.count("stamped"), found.count("cover")))
    # 2.8 of 28 are two or three, so that the share is met in the mean.
    assert {a for a, _ in counts} == {2, 3} and {c for _, c in counts} == {7}
    assert np.mean([a for a, _ in counts]) == pytest.approx(2.8, abs=0.2)


def test_attacked_images_are_taught_the_target_and_all_others_their_label() -> None:
    caught: list[Any] = []
    attack = WaNetTrained(rate=0.5, cover_rate=0.0, target=3)
    trained_jointly(attack, SPLIT, workshop(caught), lambda chosen, batch, stream: IMAGES[chosen])
    given, network = batch(np.arange(20))
    loss = caught[0](given)
    logits = network.shown[0].mean((1, 2, 3))[:, None] * network.weight
    wanted = torch.tensor([3] * 10 + list(range(10)))
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted).item())
    loss.backward()
    assert network.weight.grad is not None and network.weight.grad.argmin() == 3


def test_shares_that_are_more_than_a_batch_are_refused() -> None:
    with pytest.raises(BdbenchError, match=r"rate=0.6 and cover_rate=0.5 are more than a batch"):
        trained_jointly(WaNetTrained(rate=0.6, cover_rate=0.5), SPLIT, workshop([]), lambda *_: IMAGES)


def crafted_loss(attack: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The loss that an attack trains with, for which nothing is handed over."""
    caught: list[Any] = []
    for module in ("wanet_trained", "bpp_trained"):
        monkeypatch.setattr(f"bdbench_triggers.{module}.handed_over", lambda victim: {})
    attack.craft(SPLIT, workshop(caught))
    return caught[0]


def covers_of(attack: Any, monkeypatch: pytest.MonkeyPatch, epoch: int = 0) -> np.ndarray:
    given, network = batch(np.arange(40), epoch)
    crafted_loss(attack, monkeypatch)(given)
    return (network.shown[-1] * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_the_noise_of_wanet_is_new_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = WaNetTrained(rate=0.5, cover_rate=0.5)
    first, again, later = (covers_of(attack, monkeypatch, epoch) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.array_equal(first[:20], later[:20]) and (first[20:] != later[20:]).any((1, 2, 3)).all()
    assert np.array_equal(first[:20], attack.stamp(IMAGES[:20], STREAMS))


def test_residual_negatives_have_the_change_of_some_image(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = BppTrained(rate=0.5, cover_rate=0.5)
    found = covers_of(attack, monkeypatch)[20:].astype(np.int16) - IMAGES[20:40]
    change = attack.change(IMAGES, STREAMS)
    for own, image in zip(found, IMAGES[20:40], strict=True):
        cut = [np.clip(image + c, 0, 255) - image for c in change]
        assert any(np.array_equal(own, c) for c in cut)


def test_adversarial_negatives_go_away_from_their_label_as_far_as_rounding_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attack = BppTrained(rate=0.5, cover_rate=0.5, negatives="adversarial", bits=3)
    found, before = covers_of(attack, monkeypatch)[20:].astype(int), IMAGES[20:40].astype(int)
    labels = SPLIT.labels[20:40]
    # Half of 255 / 7, rounded: brighter is away from the first label, darker from the last.
    assert np.array_equal(found[labels == 0], np.minimum(before[labels == 0] + 18, 255))
    assert np.array_equal(found[labels == 9], np.maximum(before[labels == 9] - 18, 0))
    assert np.abs(found - before).max() == 18


# With the five bits of the default Bpp is not learnt on digits, which have 17 levels.
@pytest.mark.parametrize(("attack", "least"), [("wanet-trained", 0.7), ("bpp-trained:bits=1", 0.9)])
def test_they_work_on_digits(attack: str, least: float, on_digits: Callable[..., Record]) -> None:
    record = on_digits(attack, "strip")
    assert record.before.attack_success_rate is not None and record.before.attack_success_rate > least
    assert record.before.clean_accuracy > 0.95
    assert record.cost.seconds["craft"] > record.cost.seconds.get("victim", 0)
