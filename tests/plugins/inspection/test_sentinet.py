from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from bdbench import BdbenchError, Record, Split, Streams
from bdbench_inspection.gradcam import heatmaps
from bdbench_inspection.sentinet import SentiNet, above, highest, law


class Two(nn.Module):
    """Two maps of 2 x 2 pixels; the answers are their sums, the second twice, and minus the first."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.maps.weight = nn.Parameter(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).sum((2, 3))[:, [0, 1, 0]] * torch.tensor([1.0, 2.0, -1.0])


def test_heatmaps_by_hand() -> None:
    image = np.array([[0, 51], [102, 255]], np.uint8).reshape(1, 2, 2, 1)
    # The gradient of the first answer is 1 on the first map everywhere, that of the second 2 on the second.
    found = heatmaps(Two(), image.repeat(3, 0), np.array([0, 1, 2]), "cpu")
    assert found[0] == pytest.approx(np.array([[0, 0.2], [0.4, 1]]))
    assert (found[1] == 0).all()  # minus the image, twice, of which nothing is above 0
    assert (found[2] == 0).all()  # what speaks against a label is not shown
    with pytest.raises(ValueError, match="no convolution"):
        heatmaps(nn.Flatten(), image, np.array([0]), "cpu")


def test_a_network_whose_weights_want_no_gradient_is_explained_alike() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    labels = np.array([0, 1, 2])
    free = heatmaps(net, images, labels, "cpu")
    assert np.array_equal(free, heatmaps(net.requires_grad_(False), images, labels, "cpu"))
    alone = np.concatenate([heatmaps(net, images[[i]], labels[[i]], "cpu") for i in range(3)])
    assert free == pytest.approx(alone, abs=1e-6) and free.shape == (3, 8, 8)


def test_the_region_is_the_highest_share() -> None:
    heat = np.arange(8.0).reshape(2, 2, 2)
    assert highest(heat, 0.5).tolist() == [[[False, False], [True, True]]] * 2
    assert highest(heat, 0.01).sum() == 2


def test_the_law_goes_through_what_fools_most_in_each_bin() -> None:
    x = np.array([0.201, 0.209, 0.401, 0.605, 0.615])
    curve = np.poly1d([1.0, -2.0, 1.5])
    y = curve(x)
    y[[1, 4]] = 0.0
    assert law(x, y) == pytest.approx([1, -2, 1.5])
    assert law(x[:3], y[:3])[0] == 0  # two bins, a line
    assert law(x[:2], y[:2]) == pytest.approx([0, 0, y[0]])


def test_distances_against_a_search() -> None:
    rng = np.random.default_rng(0)
    curve = np.poly1d([-1.3, 0.4, 0.6])
    points = rng.random((20, 2))
    found = above(np.array(curve.coeffs), points[:, 0], points[:, 1])
    for (x, y), distance in zip(points, found, strict=True):
        squares = [
            minimize_scalar(lambda t, x=x, y=y: (t - x) ** 2 + (curve(t) - y) ** 2, bracket=(a, a + 0.3)).fun
            for a in np.linspace(-2, 2, 9)
        ]
        assert abs(distance) == pytest.approx(np.sqrt(min(squares)), abs=1e-6)
        assert (distance > 0) == (y > curve(x))
    assert above(np.array([0, 0, 0.25]), np.array([0.3]), np.array([1.0])) == pytest.approx([0.75])


def test_a_region_is_laid_over_clean_images_and_then_noise_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    overlays, images = (rng.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8) for count in (3, 2))
    noise, shown = np.array([[1, 2], [3, 4]], np.uint8)[..., None], []

    def logits(x: np.ndarray) -> np.ndarray:
        shown.append(x)
        return np.tile([0.0, 2.0], (len(x), 1))

    victim = SimpleNamespace(module=lambda: nn.Flatten(), predict=lambda x: np.arange(len(x)), logits=logits)
    tools: Any = SimpleNamespace(victim=victim, device="cpu", track=lambda total, label: lambda steps: None)
    heat = np.array([[[9.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 9.0]]])
    monkeypatch.setattr("bdbench_inspection.gradcam.heatmaps", lambda *_: heat)
    fooled, confidence = SentiNet(share=0.25)._tried(images, {"overlays": overlays, "noise": noise}, tools)
    assert fooled.tolist() == [0, 1] and confidence == pytest.approx(1 / (1 + np.exp(-2)))
    for made, inside in zip(shown, (images, np.stack([noise] * 2)), strict=True):
        expected = np.stack([overlays, overlays])
        expected[0, :, 0, 0], expected[1, :, 1, 1] = inside[0, 0, 0], inside[1, 1, 1]
        assert np.array_equal(made, expected.reshape(6, 2, 2, 1))


def test_a_model_without_convolutions_is_refused() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(module=nn.Flatten, predict=lambda x: np.zeros(len(x), np.int64)),
        architecture=SimpleNamespace(name="mlp"),
        clean_examples=lambda count: Split(images, np.zeros(4, np.int64)),
        streams=Streams(0),
        track=lambda total, label: lambda steps: None,
        device="cpu",
    )
    with pytest.raises(BdbenchError, match="'sentinet' does not apply to model 'mlp': the network has no convolution"):
        SentiNet().fit(tools)


@pytest.mark.slow
def test_a_patch_is_found_in_digits(on_digits: Callable[..., Record]) -> None:
    found = on_digits("badnets:rate=.05", "sentinet").inputs
    assert found is not None and found.auroc is not None and found.auroc > 0.9


def test_the_law_is_of_inputs_that_are_no_overlays_and_scores_are_distances_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    tools: Any = SimpleNamespace(clean_examples=lambda n: Split(images, np.zeros(10, np.int64)), streams=Streams(0))
    confidence = np.array([0.2, 0.4, 0.6, 0.8])
    fooled = confidence**2 / 2
    seen: list[Any] = []

    def tried(self: SentiNet, given: np.ndarray, state: Any, tools: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append((set(given.ravel().tolist()), set(state["overlays"].ravel().tolist())))
        return fooled, confidence

    monkeypatch.setattr(SentiNet, "_tried", tried)
    defense = SentiNet(overlays=3, clean=4)
    state = defense.fit(tools)
    assert state["law"] == pytest.approx([0.5, 0, 0], abs=1e-9)
    assert len(seen[0][0]) == 4 and len(seen[0][1]) == 3 and not seen[0][0] & seen[0][1]
    flat = {**state, "law": np.array([0.0, 0.0, 0.05])}
    assert defense.score(images[:4], flat, tools) == pytest.approx(fooled - 0.05)
