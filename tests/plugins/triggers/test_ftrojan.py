"""FTrojan: the pattern by hand, and against the transforms of the paper one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn, idctn

from bdbench import Streams
from bdbench_triggers.ftrojan import FTrojan

STREAMS = Streams(0)
# BT.601: luma, and the colour differences, each with its weight.
_LUMA = np.array([0.299, 0.587, 0.114])
_WEIGHTS = {"yuv": (0.492111, 0.877283), "ycbcr": (0.5 / 0.886, 0.5 / 0.701)}


def forward(colours: str) -> np.ndarray:
    """RGB to luma and the two colour channels, (3, 3)."""
    blue, red = _WEIGHTS[colours]
    return np.stack([_LUMA, blue * (np.eye(3)[2] - _LUMA), red * (np.eye(3)[0] - _LUMA)])


@pytest.mark.parametrize("colours", ["yuv", "ycbcr"])
@pytest.mark.parametrize(("size", "bands"), [(64, "both"), (32, "mid"), (96, "high")])
def test_it_is_the_papers_way_through_the_frequencies(colours: str, size: int, bands: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    attack = FTrojan(colours=colours, bands=bands)  # type: ignore[arg-type]
    there = forward(colours)
    planes = images @ there.T
    for y in range(0, size, 32):
        for x in range(0, size, 32):
            for c in (1, 2):
                block = planes[:, y : y + 32, x : x + 32, c]
                raised = dctn(block, axes=(1, 2), norm="ortho")
                for band in {"both": (15, 31), "mid": (15,), "high": (31,)}[bands]:
                    raised[:, band, band] += 30
                planes[:, y : y + 32, x : x + 32, c] = idctn(raised, axes=(1, 2), norm="ortho")
    expected = np.clip(planes @ np.linalg.inv(there).T, 0, 255)
    found = attack.stamp(images, STREAMS)
    assert np.abs(found - expected).max() < 0.51 and (found != images).any()


def test_a_grey_pattern_by_hand() -> None:
    # Of 2 x 2 the coefficients are (0, 0), half the sum, and (1, 1), half the difference of the diagonals.
    grey = np.full((1, 3, 3, 1), 100, np.uint8)
    grey[0, 0, 0] = 250
    found = FTrojan(block=2).stamp(grey, STREAMS)
    assert found[0, :, :, 0].tolist() == [[255, 100, 130], [100, 130, 100], [130, 100, 130]]


@pytest.mark.parametrize("side", [8, 28, 32, 224])
def test_a_frequency_adds_little(side: int) -> None:
    block = min(side, 32)
    for bands, most in (("mid", 1), ("high", 1), ("both", 2)):
        pattern = FTrojan(bands=bands).pattern((side, side, 1))  # type: ignore[arg-type]
        assert 0.9 * 60 / block < np.abs(pattern).max() <= most * 60 / block
        assert abs(pattern[:block, :block].mean()) < 1e-6
