from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bdbench import Batch, Record, TrainingView
from bdbench_baselines.augmentation import StrongAugmentation, averaged, cut


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


@pytest.mark.parametrize(("mix", "share"), [("mixup", 1.0), ("cutmix", 1.0), ("cutmix", 0.0)])
def test_labels_share_the_loss_as_pixels_share_the_image(mix: Literal["mixup", "cutmix"], share: float) -> None:
    given: dict[str, Any] = {}
    recipe = SimpleNamespace(label_smoothing=0.0)
    tools = SimpleNamespace(recipe=recipe, train=lambda images, labels, name, **options: given.update(options))
    view = TrainingView(np.zeros((4, 2, 2, 1), np.uint8), np.arange(4), 4)
    StrongAugmentation(mix=mix, share=share).train(view, tools)  # type: ignore[arg-type]
    # Every image is its label in all pixels, and the network answers with the shares of the labels among them.
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    pixels: list[torch.Tensor] = []

    def network(mixed: torch.Tensor) -> torch.Tensor:
        pixels.append(mixed)
        return torch.log_softmax(torch.randn(4, 4), 1)

    for seed in range(10):
        torch.manual_seed(seed)
        batch = Batch(network, x, torch.arange(4), torch.arange(4), 0, lambda images: images)  # type: ignore[arg-type]
        found = given["loss"](batch)
        torch.manual_seed(seed)
        mixes = float(torch.rand(())) < share
        kept = float(torch.distributions.Beta(1.0, 1.0).sample()) if mixes else 1.0
        other = torch.randperm(4)
        if mix == "cutmix":
            _, kept = cut(x, x[other], kept)
        logits = torch.log_softmax(torch.randn(4, 4), 1)
        both = [-logits[torch.arange(4), y].mean() for y in (torch.arange(4), other)]
        assert found == pytest.approx(float(kept * both[0] + (1 - kept) * both[1]), abs=1e-5)
        assert pixels[-1].mean((1, 2, 3)).tolist() == pytest.approx(
            (kept * torch.arange(4) + (1 - kept) * other).tolist(), abs=1e-5
        )


@pytest.mark.slow
def test_it_learns_digits_and_does_not_end_a_backdoor_of_a_tenth(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "augmentation")
    assert record.after is not None and record.after.clean_accuracy > 0.95
    assert record.access == ["training_set"] and record.cost.models_trained == 1
