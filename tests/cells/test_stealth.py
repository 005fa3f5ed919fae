"""How much a trigger shows, against hand-worked cases and scikit-image's numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench.cells import stealth
from bdbench.cells.stealth import psnr, ssim, visibility
from bdbench.storage.record import Stealth


def test_psnr_by_hand() -> None:
    x = np.full((2, 4, 4, 1), 100.0)
    # Every pixel 10 off: 10 log10(255^2 / 100); one of 16 pixels 40 off: the same.
    y = x.copy()
    y[0] += 10
    y[1, 0, 0] += 40
    assert psnr(x, y).tolist() == pytest.approx([10 * math.log10(255**2 / 100)] * 2)


def test_ssim_of_constant_images_by_hand() -> None:
    x, y = np.full((1, 8, 8, 1), 100.0), np.full((1, 8, 8, 1), 150.0)
    c1 = (0.01 * 255) ** 2
    found = ssim(x, y)
    assert found is not None
    # Without variance the second factor is 1.
    assert found.tolist() == pytest.approx([(2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)])
    assert ssim(x, x).tolist() == pytest.approx([1.0])  # type: ignore[union-attr]
    assert ssim(x[:, :6], y[:, :6]) is None


def test_ssim_and_psnr_are_scikit_images() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 9, 12, 3)).astype(float)
    y = np.clip(x + rng.normal(0, 20, x.shape), 0, 255)
    # structural_similarity(a, b, data_range=255, channel_axis=2) and peak_signal_noise_ratio of scikit-image 0.25
    expected = [0.9731400378487597, 0.9670267463259754, 0.9658246948586943, 0.961713965879856, 0.9690466241297253]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-12)  # type: ignore[union-attr]
    decibels = [23.269658713383308, 22.478836884349644, 22.337649842304117, 22.207450023318124, 22.536029998312138]
    assert psnr(x, y).tolist() == pytest.approx(decibels, abs=1e-12)


def test_only_what_changed_counts() -> None:
    before = np.full((3, 8, 8, 1), 100, np.uint8)
    after = before.copy()
    after[1] += 10
    after[2, 0, 0] = 0
    found = visibility(before, after)
    assert found.largest_change == 100
    assert found.psnr == pytest.approx((10 * math.log10(255**2 / 100) + 10 * math.log10(255**2 * 64 / 100**2)) / 2)
    assert visibility(before, before) == Stealth(None, None, None)


def test_the_first_pairs_are_compared_and_at_least_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.full((40, 8, 8, 1), 100, np.uint8)
    after = before.copy()
    after[:16] += 10
    after[16:] += 20
    ten, twenty = (10 * math.log10(255**2 / change**2) for change in (10, 20))
    assert visibility(before, after).psnr == pytest.approx((16 * ten + 24 * twenty) / 40)
    monkeypatch.setattr(stealth, "_VALUES", 20 * 64)
    assert visibility(before, after).psnr == pytest.approx((16 * ten + 4 * twenty) / 20)
    monkeypatch.setattr(stealth, "_VALUES", 3 * 64)
    assert visibility(before, after).psnr == pytest.approx(ten)


def test_a_record_says_how_much_the_attack_shows(tiny: dict[str, Any]) -> None:
    made, control = (bdbench.run(defense="none", **{**tiny, "attack": a}) for a in (tiny["attack"], "none"))
    assert made.stealth is not None and made.stealth.largest_change == 255 and control.stealth is None
    # No defense changes nothing.
    assert made.after == made.before and made.cost.models_trained == 0
