"""What detectors of models conclude from what they found for each label."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Split, Verdict, Victim
from bdbench_inspection.bti_dbf import BtiDbf
from bdbench_inspection.mm_bd import MmBd, log_p_value
from bdbench_inspection.neural_cleanse import NeuralCleanse


class Network(nn.Module):
    """Any with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]


def told(found: list[dict[str, Any]], clean: Split | None = None) -> Any:
    """Tools of a model with a label for each of ``found``, for which that has been found already."""
    victim = Victim(Network(), np.zeros(1, np.float32), np.ones(1, np.float32), "cpu")
    return SimpleNamespace(
        num_classes=len(found),
        shape=(4, 4, 1),
        device="cpu",
        victim=victim,
        shared_streams=SimpleNamespace(integer=lambda name: 0),
        track=lambda total, label: lambda count: None,
        oracle=lambda name: clean,
        clean_examples=lambda count: clean,
        saved_each=lambda configs, make: found,
        saved=lambda config, make: found[0],
    )


def neural_cleanse(norms: list[float], **parameters: Any) -> Verdict:
    masks = [{"mask": np.full((2, 2), norm / 4)} for norm in norms]
    clean = Split(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    return NeuralCleanse(**parameters).inspect(told(masks, clean))


def test_a_mask_far_smaller_than_the_median_is_flagged() -> None:
    # Median 10; distances 0, 1, 2, 1, 9, whose median is 1.
    verdict = neural_cleanse([10, 11, 12, 9, 1])
    assert verdict.flagged and verdict.targets == (4,) and verdict.score == pytest.approx(9 / 1.4826)


def test_a_mask_far_larger_than_the_median_is_none() -> None:
    # Median 11; distances 1, 0, 1, 2, 19, whose median is 1: the smallest lies two of them below.
    verdict = neural_cleanse([10, 11, 12, 9, 30])
    assert not verdict.flagged and verdict.targets == () and verdict.score == pytest.approx(2 / 1.4826)
    assert neural_cleanse([10, 11, 12, 9, 30], threshold=0.5).targets == (0, 3)


def test_a_margin_beyond_the_law_of_the_others_is_flagged() -> None:
    usual = [1.0, 1.2, 0.9, 1.1, 1.3, 1.05, 0.95, 1.15]
    for last, flagged in ((9.0, True), (1.25, False)):
        margins = [*usual[:3], last, *usual[3:]]
        verdict = MmBd().inspect(told([{"margin": margin} for margin in margins]))
        assert verdict.flagged is flagged and verdict.targets == ((3,) if flagged else ())
        log_p = log_p_value(np.array(margins))
        assert log_p is not None and verdict.p_value == pytest.approx(np.exp(log_p))
        assert verdict.score == pytest.approx(-log_p / np.log(10)) and (verdict.p_value < 0.05) is flagged
    # A level of 0 is never passed; with two other labels there is no law.
    certain = [{"margin": margin} for margin in [*usual, 1e9]]
    assert MmBd().inspect(told(certain)).flagged and not MmBd(significance=0).inspect(told(certain)).flagged
    assert MmBd().inspect(told(certain[-3:])) == Verdict(0.0, False)


def test_a_label_that_most_images_of_others_are_sent_to_is_flagged() -> None:
    clean = Split(np.zeros((8, 4, 4, 1), np.uint8), np.array([0, 0, 0, 0, 1, 1, 2, 2]))
    # Of the six that are not of label 1 four go to 1; of the four that are not of label 0 two go to 0.
    hits = np.array([1, 1, 1, 0, 0, 1, 1, 0])
    verdict = BtiDbf().inspect(told([{"hits": hits}] * 3, clean))
    assert verdict.flagged and verdict.targets == (1,) and verdict.score == pytest.approx(4 / 6)
    silent = BtiDbf(share=0.7).inspect(told([{"hits": hits}] * 3, clean))
    assert not silent.flagged and silent.targets == () and silent.score == verdict.score
