"""WaNet: the field against cubic convolution written out, the warp against scipy, the covers, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from bdbench import BdbenchError, Role, Split, Streams
from bdbench_triggers.wanet import WaNet
from bdbench_triggers.warping import smooth_field, warped

STREAMS = Streams(0)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def cubic(values: np.ndarray, size: int) -> np.ndarray:
    """Values (k, ...) at ``size`` places from the first to the last, by Keys's convolution with a = -3/4."""

    def weight(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    places = np.linspace(0, len(values) - 1, size)
    near = [range(int(np.floor(p)) - 1, int(np.floor(p)) + 3) for p in places]
    last = len(values) - 1
    return np.stack(
        [sum(weight(p - j) * values[min(max(j, 0), last)] for j in js) for p, js in zip(places, near, strict=True)]
    )


@pytest.mark.parametrize("shape", [(8, 8), (13, 20), (32, 32)])
def test_the_field_is_a_cubic_between_vectors_of_mean_size_one(shape: tuple[int, int]) -> None:
    control = np.random.default_rng(3).uniform(-1, 1, (2, 4, 4))
    control /= np.abs(control).mean()
    expected = cubic(cubic(control.transpose(1, 2, 0), shape[0]).transpose(1, 0, 2), shape[1]).transpose(1, 0, 2)
    found = smooth_field(shape, 4, np.random.default_rng(3))
    assert found.shape == (*shape, 2) and np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (12, 20, 3), (224, 224, 3)])
def test_the_warp_is_bilinear_sampling(shape: tuple[int, int, int]) -> None:
    images = noise(2, *shape)
    height, width, _ = shape
    field = smooth_field(shape[:2], 4, np.random.default_rng(1))
    found = warped(images, field, rescale=0.98)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    column = (np.clip((x + field[..., 0] / width) * 0.98, -1, 1) + 1) / 2 * (width - 1)
    row = (np.clip((y + field[..., 1] / height) * 0.98, -1, 1) + 1) / 2 * (height - 1)
    for image, after in zip(images, found, strict=True):
        for c in range(shape[2]):
            exact = map_coordinates(image[..., c].astype(float), [row, column], order=1, mode="nearest")
            # Rounded to whole levels, but for what float32 leaves of the places.
            assert np.abs(after[..., c] - exact).max() < 0.51


def test_a_warp_by_hand() -> None:
    image = np.arange(0, 50, 10, dtype=np.uint8)[None, None, :, None].repeat(2, 1)
    # In a width of 5 a pixel is 2/4 of the unit: 2.5 fifths. The last place is cut off at the border.
    field = np.zeros((2, 5, 2), np.float32)
    field[..., 0] = 2.5
    assert warped(image, field)[0, :, :, 0].tolist() == [[10, 20, 30, 40, 40]] * 2
    field[..., 0] = -1.25
    assert warped(image, field)[0, :, :, 0].tolist() == [[0, 5, 15, 25, 35]] * 2
    assert np.array_equal(warped(image, 0 * field), image)


@pytest.mark.parametrize(("s", "rescale"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (0.5, 0.5)])
def test_pixels_move_by_s_and_are_drawn_together_by_the_rescale(s: float, rescale: float) -> None:
    # On a ramp a level is a place: 16 of them a pixel, of which 15/2 are the unit, and the field is in its sixteenths.
    ramp = (np.arange(16, dtype=np.uint8) * 16)[None, None, :, None].repeat(16, 1)
    field = smooth_field((16, 16), 4, STREAMS("trigger"))[..., 0]
    places = (np.linspace(-1, 1, 16) + s * field / 16) * rescale
    expected = ((places + 1) * 7.5 * 16).clip(0, 240)
    stamped = WaNet(s=s, grid_rescale=rescale).stamp(ramp, STREAMS)[0, :, :, 0]
    assert np.abs(stamped - expected).max() <= 0.51


def test_one_field_for_all_images_in_training_and_at_test_time() -> None:
    images = noise(1, 16, 16, 3).repeat(3, 0)
    trained, tested = WaNet().stamp(images, STREAMS), WaNet().trigger(images[:1], STREAMS)
    assert (trained == tested).all() and (trained != images).any()
    assert not np.array_equal(trained, WaNet().stamp(images, Streams(1)))


def test_covers_have_noise_of_their_own_around_the_field() -> None:
    images = noise(1, 16, 16, 1).repeat(3, 0)
    stamped = WaNet().stamp(images, STREAMS)
    covers = WaNet().cover(images, STREAMS)
    assert (covers != stamped).any((1, 2, 3)).all() and (covers[0] != covers[1]).any()
    assert np.array_equal(covers, WaNet().cover(images, STREAMS))
    assert np.array_equal(WaNet(jitter=0).cover(images, STREAMS), stamped)
    # On a ramp a level is a place: noise is in -1..1 sixteenths of half the image, 15/32 of a pixel.
    ramp = (np.arange(16, dtype=np.uint8) * 16)[None, None, :, None].repeat(16, 1).repeat(200, 0)
    moved = (WaNet().cover(ramp, STREAMS).astype(int) - WaNet().stamp(ramp, STREAMS))[:, 4:-4, 4:-4] / 16
    assert abs(np.abs(moved).max() - 15 / 32) < 0.07 and abs(moved.mean()) < 0.01
    assert moved.std() == pytest.approx(15 / 32 / np.sqrt(3), abs=0.02)


def test_poisons_and_covers_of_a_set() -> None:
    from types import SimpleNamespace
    from typing import Any

    tools: Any = SimpleNamespace(streams=STREAMS, num_classes=10, device="cpu")
    split = Split(noise(200, 8, 8, 1), np.arange(200) % 10)
    made = WaNet(target=3).poison(split, {}, tools)
    poisons, covers = made.roles == Role.POISON, made.roles == Role.COVER
    assert (poisons.sum(), covers.sum()) == (20, 40)
    assert (made.labels[poisons] == 3).all() and (split.labels[poisons] != 3).all()
    assert np.array_equal(made.labels[covers], split.labels[covers])
    images = np.asarray(split.images)
    assert np.array_equal(made.images[poisons], WaNet().stamp(images[poisons], STREAMS))
    assert np.array_equal(made.images[covers], WaNet().cover(images[covers], STREAMS))


def test_a_field_that_is_finer_than_the_image_is_refused() -> None:
    with pytest.raises(BdbenchError, match="k=9 does not fit images of 8 x 12: expected k <= 8"):
        WaNet(k=9).stamp(noise(1, 8, 12, 1), STREAMS)
