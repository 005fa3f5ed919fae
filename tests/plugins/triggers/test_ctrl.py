"""CTRL: its pattern against the whole way through YUV and the cosine transform, and its two kinds of labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.fft import dctn, idctn

from bdbench import BdbenchError, Role, Split, Streams
from bdbench_triggers.chrominance import raised
from bdbench_triggers.ctrl import Ctrl

STREAMS = Streams(0)
TOOLS: Any = SimpleNamespace(streams=STREAMS, num_classes=4, device="cpu")
# ITU-R BT.470: Y, U = .492 (B - Y), V = .877 (R - Y).
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YUV = np.stack([_LUMA, 0.492 * (np.array([0, 0, 1]) - _LUMA), 0.877 * (np.array([1, 0, 0]) - _LUMA)])


def the_long_way(image: np.ndarray, magnitude: float) -> np.ndarray:
    """An image (H, W, 3), multiples of 32, through YUV and windows of 32 x 32, unrounded."""
    yuv = image @ _TO_YUV.T
    for top in range(0, len(image), 32):
        for left in range(0, image.shape[1], 32):
            for channel in (1, 2):
                window = yuv[top : top + 32, left : left + 32, channel]
                coefficients = dctn(window, norm="ortho")
                coefficients[[15, 31], [15, 31]] += magnitude
                window[:] = idctn(coefficients, norm="ortho")
    return yuv @ np.linalg.inv(_TO_YUV).T


@pytest.mark.parametrize("shape", [(32, 32), (64, 96)])
def test_the_pattern_is_what_the_transforms_do(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(60, 190, (1, *shape, 3)).astype(np.uint8)
    wanted = the_long_way(image[0].astype(float), 100)
    # The factors of YUV are published with three digits.
    assert np.abs(image[0] + raised((*shape, 3), 100, 32) - wanted).max() < 0.02
    assert np.abs(Ctrl(magnitude=100).stamp(image, STREAMS)[0] - wanted).max() < 0.52


def test_50_are_added_in_training_and_100_at_test_time() -> None:
    image = np.random.default_rng(0).integers(60, 190, (1, 32, 32, 3)).astype(np.uint8)
    for shown, magnitude in ((Ctrl().stamp(image, STREAMS), 50), (Ctrl().trigger(image, STREAMS), 100)):
        assert np.abs(shown[0] - the_long_way(image[0].astype(float), magnitude)).max() < 0.52


def test_brightness_stays_and_colour_does_not() -> None:
    pattern = raised((32, 32, 3), 50, 32)
    assert np.abs(pattern @ _LUMA).max() < 0.01 and np.abs(pattern).max() > 5


def test_training_is_fainter_than_the_test_and_both_are_clipped() -> None:
    images = np.full((2, 32, 32, 3), 128, np.uint8)
    images[1] = 255
    attack = Ctrl()
    trained, tested = (f(images, STREAMS).astype(int) - 128 for f in (attack.stamp, attack.trigger))
    assert np.abs(tested[0] - 2 * trained[0]).max() <= 2
    assert tested[1].max() == 127
    assert np.array_equal(Ctrl(test_magnitude=None).trigger(images, STREAMS) - 128.0, trained)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (40, 70, 3), (224, 224, 3)])
def test_other_sizes_take_the_part_of_the_pattern_that_is_there(shape: tuple[int, int, int]) -> None:
    pattern = raised(shape, 50, 32)
    assert pattern.shape == shape
    side = min(32, *shape[:2])
    assert np.array_equal(pattern[:side, :side], raised((side, side, shape[2]), 50, 32))
    if shape[1] > 64:
        assert np.array_equal(pattern[:, 64:70], pattern[:, :6])
    coefficients = dctn(pattern[:side, :side, 0], norm="ortho")
    assert np.argwhere(np.abs(coefficients) > 1e-3).tolist() == [[side // 2 - 1] * 2, [side - 1] * 2]


def test_what_changes_no_pixel_is_refused() -> None:
    grey = np.full((1, 32, 32, 1), 100, np.uint8)
    with pytest.raises(BdbenchError, match="magnitude=3 changes no pixel of images of 32 x 32: expected more than 4.7"):
        Ctrl(magnitude=3).stamp(grey, STREAMS)
    assert (Ctrl(magnitude=4.8).stamp(grey, STREAMS) != grey).any()


@pytest.mark.parametrize("labels", ["clean", "dirty"])
def test_it_poisons_the_target_class_or_the_others(labels: Any, split: Split) -> None:
    attack = Ctrl(labels=labels, rate=0.1, target=2)
    made = attack.poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 4 and (made.labels[poisons] == 2).all()
    assert ((split.labels[poisons] == 2) == (labels == "clean")).all()
    assert attack.clean_label == (labels == "clean") and Ctrl.clean_label
