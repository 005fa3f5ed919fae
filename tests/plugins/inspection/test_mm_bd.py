from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import gamma
from torch import nn

from bdbench import Record
from bdbench_inspection.margin import largest_margin
from bdbench_inspection.mm_bd import log_p_value


class Linear(nn.Module):
    """Logits of 2 x 1 pixels a and b: 2 a - b, b, and 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0, 0, 0], x[:, 0, 1, 0]
        return torch.stack([2 * a - b, b, torch.full_like(a, 0.5)], 1)


@pytest.mark.parametrize(("label", "margin", "image"), [(0, 1.5, [1.0, 0.0]), (1, 0.5, None), (2, 0.5, None)])
def test_the_largest_margin_by_hand(label: int, margin: float, image: list[float] | None) -> None:
    # 0: 2 - 0 over 0.5. 1: b = 1 over 0.5 where a < .75. 2: 0.5 over two logits that are 0.
    found = largest_margin(Linear(), (2, 1, 1), [1, 2, 3], "cpu", label, images=20, steps=300, lr=0.02)
    assert float(found["margin"]) == pytest.approx(margin, abs=0.05)
    assert found["image"].shape == (2, 1, 1) and (found["image"] >= 0).all() and (found["image"] <= 1).all()
    if image is not None:
        assert found["image"].ravel() == pytest.approx(image, abs=0.02)


def test_images_do_not_depend_on_each_other() -> None:
    alone, many = (
        largest_margin(Linear(), (2, 1, 1), [1, 2, 3], "cpu", 0, images=count, steps=5, lr=0.02) for count in (1, 9)
    )
    assert many["margin"] >= alone["margin"] - 1e-6


def test_the_p_value_is_that_of_the_largest_of_as_many() -> None:
    others = [8.0, 9.0, 9.5, 10.0, 10.5, 11.0, 12.5]
    for largest in (13.0, 16.0):
        chance = gamma.cdf(largest, *gamma.fit(others))
        found = log_p_value(np.array([*others[:3], largest, *others[3:]]))
        assert found == pytest.approx(np.log(1 - chance**8), rel=1e-3)
    # Where 1 - F is too small for a difference from 1.
    far = log_p_value(np.array([*others, 200.0]))
    assert far == pytest.approx(np.log(8) + gamma.logsf(200, *gamma.fit(others)), rel=1e-6) and np.isfinite(far)


@pytest.mark.parametrize("margins", [[1.0, 2.0], [1.0, 2.0, 9.0], [3.0, 3.0, 3.0, 3.0, 9.0], [0.0] * 6])
def test_no_law_no_p_value(margins: list[float]) -> None:
    assert log_p_value(np.array(margins)) is None


def test_without_an_outlier_it_is_too_small_but_not_by_more_than_is_said() -> None:
    rng = np.random.default_rng(0)
    found = [log_p_value(rng.gamma(50, 0.4, 10)) for _ in range(40)]
    assert 0.02 < np.mean([p is not None and p < np.log(0.05) for p in found]) < 0.35


@pytest.mark.slow
def test_it_flags_the_target_of_a_backdoored_model_and_no_label_of_a_clean_one(
    on_digits: Callable[..., Record],
) -> None:
    verdict = on_digits("badnets:rate=.1", "mm-bd").verdict
    assert verdict is not None and verdict.flagged and verdict.targets == [0] and verdict.hit
    clean = on_digits("none", "mm-bd").verdict
    assert clean is not None and not clean.flagged and clean.score < verdict.score


def test_the_margin_is_the_largest_of_all_starts() -> None:
    for seed in range(4):
        found = largest_margin(Linear(), (2, 1, 1), [seed], "cpu", 0, images=9, steps=1, lr=0.0)
        a, b = torch.rand(9, 1, 2, 1, generator=torch.Generator().manual_seed(seed))[:, 0, :, 0].T
        margins = 2 * a - b - torch.maximum(b, torch.tensor(0.5))
        assert float(found["margin"]) == pytest.approx(float(margins.max()))
