from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bdbench import Streams
from bdbench_inspection import corruptions
from bdbench_inspection.corruptions import CORRUPTIONS, corrupted
from bdbench_inspection.teco import TeCo

SHAPES = [(8, 8, 1), (9, 12, 3), (32, 32, 3)]


def images(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    noise = np.random.default_rng(0).random((count, *shape))
    return np.rint(255 * ndimage.gaussian_filter(noise, (0, 1, 1, 0))).astype(np.uint8)


def under(name: str, x: np.ndarray, severity: int) -> np.ndarray:
    return corrupted(name, x, severity, Streams(1)(name))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_corrupted_alone_as_in_a_batch(name: str, shape: tuple[int, ...]) -> None:
    x = images(shape)
    for severity in range(1, 6):
        made = under(name, x, severity)
        assert made.dtype == np.uint8 and made.shape == x.shape
        assert np.array_equal(under(name, x[1:2], severity), made[1:2])
        assert np.array_equal(under(name, x[::-1], severity), made[::-1])
    assert (made != x).any()
    assert np.array_equal(under(name, np.zeros_like(x[:0]), 5), x[:0])


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"fog", "glass_blur", "elastic_transform", "pixelate"}))
def test_severity_grows(name: str) -> None:
    x = images((32, 32, 3))
    changes = [np.abs(under(name, x, severity).astype(float) - x).mean() for severity in (1, 5)]
    assert changes[1] > 1.2 * changes[0]


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"gaussian_noise", "shot_noise", "impulse_noise", "fog"}))
def test_what_blurs_or_moves_leaves_constant_images(name: str, level: int) -> None:
    x = np.full((1, 8, 8, 1), level, np.uint8)
    expected = np.full_like(x, 128) if (name, level) == ("brightness", 0) else x
    assert np.abs(under(name, x, 5).astype(int) - expected).max() <= 1


def test_images_are_read_between_pixels_as_scipy_does() -> None:
    rng = np.random.default_rng(2)
    x = rng.random((3, 7, 10, 2))
    places = corruptions._grid(x) + rng.normal(0, 6, (2, 2, 7, 10))
    found = corruptions._sampled(x, places, np.array([0.25, 0.75]))
    for image, made in zip(x, found, strict=True):
        for channel in range(2):
            read = [ndimage.map_coordinates(image[..., channel], at, order=1, mode="mirror") for at in places]
            assert made[..., channel] == pytest.approx(0.25 * read[0] + 0.75 * read[1])


def test_pixels_grow_as_where_pillow_resizes() -> None:
    x = images((32, 32, 1), 1)
    small = Image.fromarray(x[0, ..., 0]).resize((8, 8), Image.Resampling.BOX)
    assert (
        np.abs(under("pixelate", x, 5)[0, ..., 0].astype(int) - small.resize((32, 32), Image.Resampling.BOX)).max() <= 1
    )


def test_noise_has_the_variance_it_should() -> None:
    x = np.full((1, 64, 64, 3), 128, np.uint8)
    assert under("gaussian_noise", x, 1).std() / 255 == pytest.approx(0.08, rel=0.05)
    # Of Poisson numbers with a mean of 60 x / 255.
    assert under("shot_noise", x, 1).std() / 255 == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.05)
    assert np.mean(under("impulse_noise", x, 5) != 128) == pytest.approx(0.27, rel=0.05)


def tools(predict: Any) -> Any:
    return SimpleNamespace(
        victim=SimpleNamespace(predict=predict), streams=Streams(0), track=lambda total, label: lambda steps: None
    )


def test_the_first_severity_that_changes_the_label_by_hand() -> None:
    given = tools(lambda x: (x.mean((1, 2, 3)) > 127.5).astype(np.int64))
    # Brightness adds a tenth of 255 for each severity.
    grey = np.array([120, 64, 1, 200], np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    labels = given.victim.predict(grey)
    assert TeCo()._withstood("brightness", grey, labels, given).tolist() == [1, 3, 5, 6]
    assert TeCo()._withstood("contrast", grey, labels, given).tolist() == [6, 6, 6, 6]


def test_a_trigger_that_some_corruptions_spare_is_found() -> None:
    """A bright square decides as long as it is bright; the label of other images changes with every pixel."""

    def predict(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, -8:, -8:].mean((1, 2, 3)) > 150, 1000, x.sum((1, 2, 3), dtype=np.int64) % 1000)

    clean = images((32, 32, 1), 40)
    triggered = clean.copy()
    triggered[:, -8:, -8:] = 255
    scores = [TeCo().score(x, {}, tools(predict)) for x in (clean, triggered)]
    assert scores[0].max() < scores[1].min()
    assert all(found.dtype == np.float64 for found in scores)


def test_scores_are_the_deviations_of_severities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in ("brightness", "contrast")})
    given = tools(lambda x: (x.mean((1, 2, 3)) > 127.5).astype(np.int64))
    grey = np.array([120, 64], np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    assert TeCo().score(grey, {}, given).tolist() == [2.5, 1.5]


def test_motion_is_more_across_than_down() -> None:
    stripes = np.broadcast_to(255 * (np.arange(32) // 4 % 2)[None, None, :, None], (1, 32, 32, 1)).astype(np.uint8)
    across, down = (under("motion_blur", x, 1).std() for x in (stripes, stripes.transpose(0, 2, 1, 3)))
    assert across < down - 5


def test_zoom_moves_light_outwards() -> None:
    dot = np.zeros((1, 32, 32, 1), np.uint8)
    dot[0, 14:18, 24:28] = 255
    light = under("zoom_blur", dot, 5)[0, ..., 0].sum(0).astype(float)
    assert (light * np.arange(32)).sum() / light.sum() > 25.5 + 0.5


def test_brightness_keeps_the_ratios_of_channels_and_fog_the_black() -> None:
    x = np.array([100, 50, 0], np.uint8).reshape(1, 1, 1, 3).repeat(8, 1).repeat(8, 2)
    # 100 + 25.5, and half of it.
    assert under("brightness", x, 1)[0, 0, 0].tolist() == [126, 63, 0]
    assert not under("fog", np.zeros((1, 8, 8, 1), np.uint8), 5).any()


def test_elastic_moves_by_shares_of_the_side() -> None:
    ramp = np.broadcast_to(2 * np.arange(96)[None, None, :, None], (1, 96, 96, 1)).astype(np.uint8)
    moved = (under("elastic_transform", ramp, 5).astype(float) - ramp)[0, 10:-10, 10:-10, 0] / 2
    assert 0.5 < np.abs(moved).mean() < 10
