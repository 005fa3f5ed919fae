from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from bdbench import BdbenchError, Split, Streams, TrainingView
from bdbench_baselines.frequency import Frequency
from bdbench_baselines.manipulations import manipulated
from bdbench_baselines.spectra import log_odds, spectra, trained


def smooth(count: int, side: int, channels: int, seed: int) -> np.ndarray:
    """Images of one slow wave each, uint8 (n, side, side, channels)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    phase, slope = rng.uniform(0, 2 * np.pi, (2, count, 1, 1))
    waves = 110 + 80 * np.sin(2 * (x * np.cos(slope) + y * np.sin(slope)) + phase)
    return np.repeat(waves[..., None], channels, 3).astype(np.uint8)


def test_spectra_by_hand() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 2)).astype(np.uint8)
    found = spectra(images)
    assert found.shape == (3, 2, 4, 6) and found.dtype == np.float32
    # a(u) a(v) sum x(i, j) cos(pi u (2 i + 1) / 2 H) cos(pi v (2 j + 1) / 2 W); a(0) = sqrt(1 / N), else sqrt(2 / N).
    rows, columns = (
        np.sqrt(np.where(np.arange(n) == 0, 1, 2) / n)[:, None]
        * np.cos(np.pi * np.arange(n)[:, None] * (2 * np.arange(n) + 1) / (2 * n))
        for n in (4, 6)
    )
    expected = np.einsum("ui,nijc,vj->ncuv", rows, images / 255, columns)
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 20, 1), (224, 224, 3), (2, 2, 1)])
def test_manipulations_change_images_of_any_size(shape: tuple[int, int, int]) -> None:
    images = np.full((60, *shape), 90, np.uint8)
    changed = manipulated(images, np.random.default_rng(0))
    assert changed.dtype == np.uint8 and (images == 90).all()
    share = (changed != images).any(3).mean((1, 2))
    if min(shape[:2]) > 2:
        # Blocks are at most 7 / 32 of a side; a shadow may miss all pixel centres of a small image.
        assert (share > 0).mean() > 0.85 and (share < 0.06).any() and (share > 0.95).any()
    assert np.array_equal(changed, manipulated(images, np.random.default_rng(0)))


def test_blocks_lie_near_corners_and_shadows_below() -> None:
    changed = manipulated(np.full((400, 32, 32, 3), 90, np.uint8), np.random.default_rng(1)).astype(int)
    dark = (changed == 45).all(3)
    shadowed = dark.any((1, 2)) & ((changed == 90) | (changed == 45)).all((1, 2, 3))
    assert shadowed.sum() > 40 and not dark[shadowed, :16].any()
    # A white block: all that changed is 255, a full rectangle of 2 to 7 pixels a side, and at most 5 from two borders.
    white = (changed == 255).all(3)
    blocked = white.any((1, 2)) & ((changed == 90) | (changed == 255)).all((1, 2, 3))
    assert blocked.sum() > 40
    for mask in white[blocked]:
        y, x = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        assert 2 <= len(y) <= 7 and 2 <= len(x) <= 7 and mask.sum() == len(y) * len(x)
        assert min(y[0], 31 - y[-1]) <= 5 and min(x[0], 31 - x[-1]) <= 5


def tools_of(clean: np.ndarray) -> Any:
    def examples(count: int | None) -> Split:
        if count is not None and count > len(clean):
            raise BdbenchError("too many")
        return Split(clean[:count], np.zeros(len(clean[:count]), np.int64))

    made = SimpleNamespace(
        shared_streams=Streams(0), device="cpu", clean_examples=examples, counted=0, saved=lambda config, make: make()
    )
    made.conclude = lambda flagged: setattr(made, "flagged", flagged)
    made.count_models = lambda number: setattr(made, "counted", number)
    return made


def test_pasted_patches_are_found_whatever_the_labels() -> None:
    images, clean = smooth(80, 16, 1, 0), smooth(60, 16, 1, 1)
    images[:20, -3:-1, -3:-1] = 255
    view = TrainingView(images, np.random.default_rng(0).integers(0, 2, 80), 2)
    given = tools_of(clean)
    scores = Frequency(steps=60).score(view, given)
    assert roc_auc_score(np.arange(80) < 20, scores) > 0.95
    assert np.array_equal(given.flagged, scores > 0) and given.counted == 1


def test_one_clean_example_constant_images_and_large_ones() -> None:
    for shape in ((8, 8, 1), (224, 224, 3)):
        images = np.zeros((3, *shape), np.uint8)
        scores = Frequency(steps=1, clean=1).score(TrainingView(images, np.zeros(3, np.int64), 2), tools_of(images))
        assert scores.dtype == np.float64 and np.isfinite(scores).all() and len(set(scores.tolist())) == 1
    with pytest.raises(BdbenchError):
        Frequency(clean=4).score(TrainingView(images, np.zeros(3, np.int64), 2), tools_of(images))


def test_training_is_the_seeds_alone_and_scores_are_the_images_alone() -> None:
    clean, state = smooth(20, 8, 3, 0), torch.get_rng_state()
    first, again, other = (trained(clean, seed, "cpu", steps=2, batch=8, lr=1e-3) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)
    images = smooth(300, 8, 3, 1)
    together = log_odds(first, images, "cpu")
    assert log_odds(first, images[290:], "cpu") == pytest.approx(together[290:], abs=1e-5)
