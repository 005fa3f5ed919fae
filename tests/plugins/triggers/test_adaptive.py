"""Adaptive-blend and adaptive-patch: what each training image carries, and what a test image does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import BdbenchError, Role, Split, Streams
from bdbench_triggers.adaptive_blend import AdaptiveBlend
from bdbench_triggers.adaptive_patch import AdaptivePatch
from bdbench_triggers.blend import Blend

STREAMS = Streams(5)
TOOLS: Any = SimpleNamespace(streams=STREAMS, num_classes=4, device="cpu")


def black(count: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.zeros((count, height, width, channels), np.uint8)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (10, 13, 3), (224, 224, 3)])
def test_half_of_the_pieces_of_the_blend_are_on_an_image_and_nothing_else(
    height: int, width: int, channels: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, height, width, channels)).astype(np.uint8)
    stamped = AdaptiveBlend().stamp(images, STREAMS)
    whole = Blend(alpha=0.15).stamp(images, STREAMS)
    # Pieces as an independent cut makes them: np.array_split gives the longer parts first, and 4 of n are the same set.
    starts = [[-(-k * side // 4) for k in range(5)] for side in (height, width)]
    shows = np.zeros((20, 4, 4), bool)
    for i in range(4):
        for j in range(4):
            part = np.s_[:, starts[0][i] : starts[0][i + 1], starts[1][j] : starts[1][j + 1]]
            planted = (stamped[part] == whole[part]).all((1, 2, 3))
            left = (stamped[part] == images[part]).all((1, 2, 3))
            assert (planted ^ left).all()
            shows[:, i, j] = planted
    assert (shows.sum((1, 2)) == 8).all()
    assert len(np.unique(shows.reshape(20, -1), axis=0)) > 15


def test_every_piece_is_as_likely_and_the_whole_is_shown_at_test_time() -> None:
    images = black(2000, 4, 4)
    often = (AdaptiveBlend().stamp(images, STREAMS) > 0).mean(0)[..., 0]
    visible = Blend(alpha=0.15).stamp(images[:1], STREAMS)[0, ..., 0] > 0
    # A deviation is .011.
    assert visible.sum() > 12 and (np.abs(often[visible] - 0.5) < 0.05).all()
    few = (AdaptiveBlend(shown=0.25).stamp(images, STREAMS) > 0).mean(0)[..., 0]
    assert (np.abs(few[visible] - 0.25) < 0.05).all()
    assert np.array_equal(AdaptiveBlend().trigger(images, STREAMS), Blend(alpha=0.2).stamp(images, STREAMS))
    with pytest.raises(BdbenchError, match="grid=5 does not fit images of 4 x 4: expected at most 4"):
        AdaptiveBlend(grid=5).stamp(images, STREAMS)


@pytest.mark.parametrize("attack", [AdaptiveBlend(rate=0.2, cover_rate=0.3), AdaptivePatch(rate=0.2, cover_rate=0.3)])
def test_covers_are_of_other_classes_and_have_draws_of_their_own(attack: Any) -> None:
    split = Split(black(400, 8, 8), np.arange(400) % 4)
    made = attack.poison(split, {}, TOOLS)
    poisons, covers = made.roles == Role.POISON, made.roles == Role.COVER
    assert (poisons.sum(), covers.sum()) == (80, 120)
    assert (made.labels[poisons] == 0).all() and (split.labels[covers] != 0).all()
    assert np.array_equal(made.labels[covers], split.labels[covers])
    assert (made.images[poisons] != made.images[covers][:80]).any((1, 2, 3)).mean() > 0.5


def test_several_targets_share_the_covers_each_with_its_own_trigger() -> None:
    split = Split(black(400, 8, 8), np.arange(400) % 4)
    attack = AdaptiveBlend(rate=0.2, cover_rate=0.3, targets=(0, 2), alpha=0.5)
    made = attack.poison(split, {}, TOOLS)
    covers = made.roles == Role.COVER
    assert covers.sum() == 120 and set(made.labels[covers]) == {1, 3}
    # Which trigger an image carries: where it is not black it shows that one's pixels.
    whole = [made.images[(made.roles == Role.POISON) & (made.labels == target)].max(0) for target in attack.targets]
    carried = np.array([[((image == 0) | (image == one)).all() for one in whole] for image in made.images[covers]])
    assert (carried.sum(1) == 1).all() and carried.sum(0).tolist() == [60, 60]
    with pytest.raises(BdbenchError, match="expected at most the 0 that may be covers"):
        AdaptiveBlend(rate=0.2, cover_rate=0.3, targets=(0, 1, 2, 3)).poison(split, {}, TOOLS)


def test_the_rates_are_the_papers() -> None:
    split = Split(black(50_000, 4, 4), np.arange(50_000) % 10)
    for attack, covers in ((AdaptiveBlend(), 150), (AdaptivePatch(), 300)):
        roles = attack.poison(split, {}, TOOLS).roles
        assert ((roles == Role.POISON).sum(), (roles == Role.COVER).sum()) == (150, covers)


def test_one_patch_of_its_opacity_by_hand() -> None:
    grey = np.full((8, 4, 4, 1), 100, np.uint8)
    stamped = AdaptivePatch().stamp(grey, STREAMS)[..., 0].astype(int)
    noise = STREAMS("trigger").integers(0, 256, (2, 1, 1, 1)).ravel()
    expected = {
        (0, 0): np.rint(100 + 0.5 * (noise[0] - 100)),
        (0, 3): np.rint(100 + 0.2 * (noise[1] - 100)),
        # White, by half and by three tenths.
        (3, 0): 178,
        (3, 3): 146,
    }
    found = []
    for image in stamped:
        (place,) = map(tuple, np.argwhere(image != 100))
        assert image[place] == expected[place]
        found.append(place)
    assert sorted(found) == sorted([*expected] * 2)


def test_two_patches_or_all_replace_pixels_at_test_time() -> None:
    grey = np.full((3, 16, 24, 3), 100, np.uint8)
    corners = [(np.s_[:, :4, :4]), (np.s_[:, :4, -4:]), (np.s_[:, -4:, :4]), (np.s_[:, -4:, -4:])]
    checker = np.where(np.indices((4, 4)).sum(0) % 2 == 0, 255, 0)[..., None]
    frame = np.array([[255] * 4, [255, 0, 0, 255], [255, 0, 0, 255], [255] * 4])[..., None]
    two, both = (AdaptivePatch(tried=tried).trigger(grey, STREAMS) for tried in ("two", "all"))
    noise = STREAMS("trigger").integers(0, 256, (2, 4, 4, 3))
    for k, patch in enumerate([noise[0], noise[1], checker, frame]):
        assert (both[corners[k]] == patch).all()
        assert (two[corners[k]] == (patch if k in (0, 2) else 100)).all()
    assert (both != 100).any((0, 3)).sum() <= 64 and np.array_equal(grey, np.full_like(grey, 100))
    with pytest.raises(BdbenchError, match=r"size=9 does not fit images of 16 x 24: expected 1\.\.8"):
        AdaptivePatch(size=9).trigger(grey, STREAMS)
