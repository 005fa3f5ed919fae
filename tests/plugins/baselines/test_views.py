from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torch import nn

from bdbench_baselines.contrast import Projected, contrast, head_only
from bdbench_baselines.views import Views, _turned, blurred, cropped, jittered

SHAPES = [(5, 1, 8, 8), (5, 3, 32, 32), (5, 3, 9, 17)]


def views(channels: int, flip: bool = False) -> Views:
    return Views(np.full(channels, 0.4, np.float32), np.full(channels, 0.2, np.float32), flip)


@pytest.mark.parametrize("shape", SHAPES)
def test_views_keep_the_shape_and_the_range_and_are_drawn_for_each(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = (torch.rand(shape[1:]).expand(shape) - 0.4) / 0.2
    for made in (views(shape[1]).strong(x), views(shape[1], flip=True).weak(x)):
        assert made.shape == x.shape and torch.isfinite(made).all()
        assert made.min() > -2.001 and made.max() < 3.001
        assert not torch.allclose(made[0], made[1])
    torch.manual_seed(3)
    first = views(shape[1]).strong(x)
    torch.manual_seed(3)
    assert torch.equal(first, views(shape[1]).strong(x))


def test_weak_views_are_moved_by_whole_pixels_and_reflect_the_edge() -> None:
    x = torch.arange(16.0 * 16).view(1, 1, 16, 16).repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    seen = set()
    for image in views(1).weak(x):
        matches = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(
                image[0].numpy(), np.pad(x[0, 0].numpy(), 2, "reflect")[2 + dy : 18 + dy, 2 + dx : 18 + dx]
            )
        ]
        assert len(matches) == 1
        seen |= set(matches)
    assert len(seen) > 10


def test_only_what_may_be_mirrored_is() -> None:
    x = torch.arange(8.0).expand(60, 1, 8, 8)
    torch.manual_seed(0)
    assert (views(1).weak(x)[:, 0, 4].diff(dim=1)[:, 2:5] == 1).all()
    falls = views(1, flip=True).weak(x)[:, 0, 4]
    assert 10 < (falls[:, 3] < falls[:, 2]).sum() < 50


def test_crops_lie_within_the_image_and_have_its_mean_colour() -> None:
    torch.manual_seed(0)
    slope = torch.arange(32.0).expand(200, 1, 32, 32)
    made = cropped(slope, 0.2)
    step = made.diff(dim=3)[:, 0, 16, 5:-5].mean(1)
    # A crop of .2 to 1 of the area shows .2 to 1 of the range, with sides of up to 4:3.
    assert made.min() >= 0 and made.max() <= 31 and step.min() > (0.2 * 3 / 4) ** 0.5 - 0.02 and step.max() < 1.01
    assert made.mean().item() == pytest.approx(15.5, abs=1)
    assert torch.allclose(cropped(torch.full((3, 1, 8, 8), 0.7), 0.2), torch.tensor(0.7))


def test_colours_change_as_the_standard_library_has_hue_and_grey() -> None:
    grey = torch.full((50, 3, 4, 4), 0.5)
    torch.manual_seed(0)
    for image in jittered(grey):
        assert image.std() < 1e-3
    red = torch.tensor([0.6, 0.3, 0.3]).view(1, 3, 1, 1)
    one, still = torch.ones(1, 1, 1, 1), torch.zeros(1)
    assert torch.allclose(_turned(red, one, still), red, atol=1e-4)
    turned = _turned(red, one, torch.tensor([0.4]))[0, :, 0, 0].tolist()
    assert abs(colorsys.rgb_to_yiq(*turned)[0] - colorsys.rgb_to_yiq(0.6, 0.3, 0.3)[0]) < 0.01
    assert colorsys.rgb_to_hsv(*turned)[0] != pytest.approx(0.0, abs=0.02)
    bleached = _turned(red, 0 * one, still)[0, :, 0, 0]
    assert (bleached - bleached[0]).abs().max() < 1e-3


def test_blur_spreads_a_point_and_keeps_the_sum() -> None:
    torch.manual_seed(0)
    x = torch.zeros(60, 1, 32, 32)
    x[:, :, 16, 16] = 1
    made = blurred(x)
    assert made.sum((1, 2, 3)).numpy() == pytest.approx(np.ones(60), abs=1e-4)
    assert 15 < (made[:, 0, 16, 16] < 0.99).sum() < 45


def test_contrast_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    e = np.e
    # Each view has one like it, of its own image, and two at right angles.
    assert contrast(z, 1.0).item() == pytest.approx(-np.log(e / (e + 2)))
    assert contrast(z, 0.5).item() == pytest.approx(-np.log(e**2 / (e**2 + 2)))
    alike = torch.tensor([[False, True], [False, False]])
    first = -(np.log(e / (e + 2)) + 2 * np.log(1 / (e + 2))) / 3
    assert contrast(z, 1.0, alike).item() == pytest.approx((first - np.log(e / (e + 2))) / 2)
    assert contrast(z[[0, 2]], 1.0).item() == pytest.approx(0)


def test_only_the_last_layer_learns() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()), nn.Linear(72, 3)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.features(x))

    net = head_only(Net(), torch.zeros(1, 1, 8, 8))
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["last.weight", "last.bias"]
    state = torch.random.get_rng_state()
    assert Projected(net, 72, seed=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 128)
    assert torch.equal(torch.random.get_rng_state(), state)
