"""Bpp: dithering by hand and against the rule written out, its covers, and what it cannot change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import BdbenchError, Split, Streams
from bdbench_triggers.bpp import Bpp
from bdbench_triggers.dithering import squeezed

STREAMS = Streams(0)
TOOLS: Any = SimpleNamespace(streams=STREAMS, num_classes=4, device="cpu")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_dithering_by_hand() -> None:
    image = np.full((1, 2, 2, 1), 100, np.uint8)
    # 100 -> 0, whose error of 100 gives 143.75 at its right -> 255, an error of -111.25. Below are
    # 100 + 5/16 100 - 3/16 111.25 = 110.39 -> 0, and 100 + 100/16 - 5/16 111.25 + 7/16 110.39 = 119.78 -> 0.
    assert squeezed(image, 1, True)[0, :, :, 0].tolist() == [[0, 255], [0, 0]]
    assert squeezed(image + 28, 1, False)[0, :, :, 0].tolist() == [[255, 255], [255, 255]]


def test_rounding_by_hand() -> None:
    levels = squeezed(np.arange(256, dtype=np.uint8)[None, None, :, None], 2, False)[0, 0, :, 0]
    assert levels.tolist() == [0] * 43 + [85] * 85 + [170] * 85 + [255] * 43


@pytest.mark.parametrize(("shape", "bits"), [((8, 8, 1), 5), ((9, 14, 3), 3), ((5, 4, 3), 1)])
def test_dithering_is_floyd_and_steinbergs_rule(shape: tuple[int, int, int], bits: int) -> None:
    images = noise(3, *shape)
    height, width, _ = shape
    top = 2**bits - 1
    work = images.astype(np.float64)
    expected = np.empty_like(images)
    for y in range(height):
        for x in range(width):
            level = np.clip(np.rint(work[:, y, x] / 255 * top), 0, top) / top * 255
            error = work[:, y, x] - level
            expected[:, y, x] = np.rint(level)
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    work[:, y + dy, x + dx] += error * share / 16
    found = squeezed(images, bits, True)
    assert np.array_equal(found, expected) and len(np.unique(found)) <= 2**bits


def test_dithering_keeps_the_mean_where_rounding_does_not() -> None:
    flat = np.full((1, 224, 224, 3), 100, np.uint8)
    assert squeezed(flat, 3, True).mean() == pytest.approx(100, abs=0.5)
    assert squeezed(flat, 3, False).mean() == 109


def test_a_cover_has_the_change_of_another_one() -> None:
    # Away from black and white nothing is cut off.
    images = noise(20, 8, 8, 3) // 2 + 64
    attack = Bpp()
    change = attack.change(images, STREAMS)
    covers = attack.cover(images, STREAMS)
    whose = [[i for i, own in enumerate(change) if np.array_equal(c, own)] for c in covers.astype(np.int16) - images]
    assert sorted(w[0] for w in whose) == list(range(20)) and all(w != [i] for i, w in enumerate(whose))


def test_it_dithers_to_32_levels_unless_told_otherwise() -> None:
    images = noise(4, 8, 8, 3)
    assert np.array_equal(Bpp().stamp(images, STREAMS), squeezed(images, 5, True))
    plain = Bpp(dither=False).stamp(images, STREAMS)
    assert np.array_equal(plain, np.rint(np.rint(images / 255 * 31) / 31 * 255))
    assert not np.array_equal(plain, Bpp().stamp(images, STREAMS))


def test_levels_that_images_have_already_are_no_trigger() -> None:
    black_and_white = Split(noise(40, 8, 8, 1) // 128 * 255, np.arange(40) % 4)
    with pytest.raises(BdbenchError, match="bits=5 changes none of the 8 images, which have no other levels"):
        Bpp().poison(black_and_white, {}, TOOLS)
