"""Dynamic patch: noise that is never the same, and the region that says what it wants."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import BdbenchError, Role, Split, Streams
from bdbench_triggers.dynamic_patch import DynamicPatch

TOOLS: Any = SimpleNamespace(streams=Streams(7), num_classes=10, device="cpu")


def mid_grey(count: int, height: int = 16, width: int = 24, channels: int = 3) -> Split:
    # A patch of noise has a pixel of 128 in all channels at one place in 16 million.
    return Split(np.full((count, height, width, channels), 128, np.uint8), np.arange(count) % 10)


def boxes(images: np.ndarray) -> np.ndarray:
    """The first and last row and column that are not grey, of each image."""
    found = []
    for image in images:
        rows, columns = np.nonzero((image != 128).any(2))
        found.append([rows.min(), rows.max(), columns.min(), columns.max()])
    return np.array(found)


def test_one_target_is_taught_by_new_noise_anywhere() -> None:
    split = mid_grey(2000)
    made = DynamicPatch(rate=0.5, target=3).poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 1000 and (made.labels[poisons] == 3).all() and (split.labels[poisons] != 3).all()
    where = boxes(made.images[poisons])
    assert (where[:, 1] - where[:, 0] == 4).all() and (where[:, 3] - where[:, 2] == 4).all()
    assert set(where[:, 0]) == set(range(12)) and set(where[:, 2]) == set(range(20))
    patches = np.stack([i[r : r + 5, c : c + 5] for i, (r, _, c, _) in zip(made.images[poisons], where, strict=True)])
    assert len(np.unique(patches.reshape(1000, -1), axis=0)) == 1000
    # Uniform: the mean of 75,000 values has a deviation of .27.
    assert abs(patches.mean() - 127.5) < 1.5 and patches.min() == 0 and patches.max() == 255


def test_each_of_several_targets_has_a_region_of_its_own() -> None:
    # 16 x 24 in 2 x 3 cells of 8 x 8: row by row targets 7, 8, 9, 0 and 1; the last cell is nobody's.
    split, attack = mid_grey(3000), DynamicPatch(rate=0.5, target=7, targets=5, size=4)
    made = attack.poison(split, {}, TOOLS)
    challenge = attack.challenge(split, {}, TOOLS)
    poisons = np.flatnonzero(made.roles == Role.POISON)
    for images, labels in ((made.images[poisons], made.labels[poisons]), (challenge.images, challenge.goal)):
        where = boxes(images[:1500])
        for label, cell in {7: (0, 0), 8: (0, 1), 9: (0, 2), 0: (1, 0), 1: (1, 1)}.items():
            of = where[labels[:1500] == label]
            if len(of):
                assert (of[:, 0].min(), of[:, 1].max()) == (8 * cell[0], 8 * cell[0] + 7)
                assert (of[:, 2].min(), of[:, 3].max()) == (8 * cell[1], 8 * cell[1] + 7)
    assert set(made.labels[poisons]) == {7, 8, 9, 0, 1}
    assert (np.bincount(made.labels[poisons], minlength=10)[[7, 8, 9, 0, 1]] > 240).all()
    assert (made.labels[poisons] != split.labels[poisons]).all()


def test_a_test_image_is_tried_with_every_target_but_its_own_label() -> None:
    split, attack = mid_grey(20), DynamicPatch(target=9, targets=2, size=4)
    made = attack.challenge(split, {}, TOOLS)
    pairs = set(zip(made.index.tolist(), made.goal.tolist(), strict=True))
    assert pairs == {(i, g) for i in range(20) for g in (9, 0) if i % 10 != g} and len(made.goal) == len(pairs)
    single = DynamicPatch(target=9).challenge(split, {}, TOOLS)
    assert np.array_equal(single.index, np.flatnonzero(split.labels != 9)) and set(single.goal) == {9}


def test_the_triggers_of_test_images_were_never_seen() -> None:
    # As many of both, so that the same draws would give the same noise.
    split, attack = mid_grey(20), DynamicPatch(rate=0.9, target=9)
    made, challenge = attack.poison(split, {}, TOOLS), attack.challenge(split, {}, TOOLS)
    poisons = made.images[made.roles == Role.POISON]
    assert len(poisons) == len(challenge.images) == 18
    seen, tried = (
        {np.sort(image[image != 128]).tobytes() for image in images} for images in (poisons, challenge.images)
    )
    assert not seen & tried


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BdbenchError, match="targets=11 are more than there are: expected 1..10"):
        DynamicPatch(targets=11).settled(10, Streams(0))
    with pytest.raises(BdbenchError, match="size=5 does not fit the regions of targets=4 in 8 pixels: .* at most 4"):
        DynamicPatch(targets=4).challenge(mid_grey(10, 8, 8), {}, TOOLS)
