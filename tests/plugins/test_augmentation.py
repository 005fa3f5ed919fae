from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bdbench import Record
from bdbench_baselines.augmentation import averaged, cut


def test_mixup_by_hand() -> None:
    mixed, kept = averaged(torch.full((2, 1, 2, 2), 1.0), torch.full((2, 1, 2, 2), 5.0), 0.75)
    assert kept == 0.75 and (mixed == 2.0).all()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.75, 0.97, 1.0])
def test_cutmix_pastes_one_rectangle_and_counts_its_pixels(kept: float) -> None:
    own, others = torch.zeros(3, 2, 8, 12), torch.ones(3, 2, 8, 12)
    torch.manual_seed(0)
    shares = []
    for _ in range(50):
        mixed, share = cut(own, others, kept)
        pasted = mixed[0, 0] == 1
        assert (mixed == mixed[0, 0]).all() and 1 - share == pytest.approx(float(pasted.float().mean()))
        rows, columns = pasted.any(1), pasted.any(0)
        assert pasted.sum() == rows.sum() * columns.sum()
        for line in (rows, columns):
            assert (line.int().diff() == 1).sum() <= 1
        shares.append(share)
    # Away from the edge the rectangle has all that it should: 8 x 12 of the root of 1 - kept, rounded.
    whole = round(8 * (1 - kept) ** 0.5) * round(12 * (1 - kept) ** 0.5) / 96
    assert min(shares) == pytest.approx(1 - whole) if kept >= 0.75 else min(shares) >= 1 - whole
    assert not own.any()


def test_the_loss_is_shared_as_the_pixels_are(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "augmentation:mix=mixup")
    assert record.after is not None and record.after.clean_accuracy > 0.95
    assert record.access == ["training_set"] and record.cost.models_trained == 1
