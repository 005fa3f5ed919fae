from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import BdbenchError, Record, Reopened, Split, Streams, TrainingView
from bdbench_baselines.cognitive_distillation import CognitiveDistillation, weight_for
from bdbench_baselines.distillation import PIECE, mask_norms, masks, variation

RNG = np.random.default_rng(0)
SETTINGS: dict[str, Any] = {"lr": 0.1, "sparsity": 0.01, "smooth": 0.0}


class Sees(nn.Module):
    """Two logits that are sums over a part of the image: the first 2 x 2 pixels if these are white, else over all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner, whole = x[:, :, :2, :2].sum((1, 2, 3)), x.sum((1, 2, 3))
        white = (x[:, :, :2, :2] > 0.5).all(3).all(2).all(1)
        said = torch.where(white, 10 + corner, whole)
        return torch.stack([said, -said], 1)


def colours(steps: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(steps, channels, generator=torch.Generator().manual_seed(0))


def test_only_what_the_model_looks_at_is_kept() -> None:
    x = torch.full((2, 1, 8, 8), 0.3)
    x[0, :, :2, :2] = 1
    found = masks(Sees(), x, colours(100), **SETTINGS)
    assert found.shape == (2, 1, 8, 8)
    assert found[0, 0, :2, :2].min() > 0.9 and found[0].sum() < 6
    assert found[1].sum() > 40


def test_one_step_by_hand() -> None:
    # f = (x, 0) of one pixel: the change is |x m + (1 - m) c - x| / 2 = |c - x| (1 - m) / 2.
    class Pixel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.flatten(1), torch.zeros(len(x), 1)], 1)

    x, colour = torch.tensor([0.2]).reshape(1, 1, 1, 1), torch.tensor([[0.8]])
    down = masks(Pixel(), x, colour, 0.1, 0.31, 0.0)
    up = masks(Pixel(), x, colour, 0.1, 0.29, 0.0)
    # The slope for m is the weight - .3; Adam's first step is the rate, whatever the slope.
    assert down.item() == pytest.approx((np.tanh(0.9) + 1) / 2, abs=1e-5)
    assert up.item() == pytest.approx((np.tanh(1.1) + 1) / 2, abs=1e-5)


def test_variation_by_hand() -> None:
    m = torch.tensor([[0.0, 1.0], [3.0, 1.0]]).reshape(1, 1, 2, 2)
    assert variation(m).tolist() == [(3**2 + 0 + 1 + 2**2) / 4]
    assert variation(torch.ones(3, 1, 5, 4)).tolist() == [0, 0, 0]


def test_the_weight_is_the_papers_at_its_sizes() -> None:
    assert weight_for(32, 32) == pytest.approx(0.01) and weight_for(224, 224) == pytest.approx(0.001)


def test_an_images_norm_depends_on_nothing_but_the_image() -> None:
    images = RNG.integers(0, 256, (PIECE + 5, 4, 4, 3)).astype(np.uint8)
    settings: dict[str, Any] = {"steps": 3, **SETTINGS}
    both = [mask_norms(Sees(), images, 1, "cpu", piece, **settings)["norms"] for piece in range(2)]
    assert [len(norms) for norms in both] == [PIECE, 5]
    order = RNG.permutation(len(images))
    again = [mask_norms(Sees(), images[order], 1, "cpu", piece, **settings)["norms"] for piece in range(2)]
    assert np.concatenate(again) == pytest.approx(np.concatenate(both)[order], abs=1e-4)


def tools_of(clean: np.ndarray) -> Any:
    made = SimpleNamespace(
        victim=SimpleNamespace(module=Sees),
        shared_streams=Streams(0),
        device="cpu",
        track=lambda total, label: lambda steps: None,
        saved_each=lambda configs, make: (make(i) for i in range(len(configs))),
        clean_examples=lambda count: Split(clean[:count], np.zeros(len(clean[:count]), np.int64)),
        flagged=None,
    )
    made.conclude = lambda flagged: setattr(made, "flagged", flagged)
    return made


def test_triggered_images_have_small_masks_and_are_flagged_if_clean_ones_are_known() -> None:
    images = RNG.integers(20, 120, (60, 8, 8, 1)).astype(np.uint8)
    images[:6, :2, :2] = 255
    view = TrainingView(images, np.zeros(60, np.int64), 2)
    given = tools_of(RNG.integers(20, 120, (30, 8, 8, 1)).astype(np.uint8))
    scores = CognitiveDistillation(sparsity=0.01).score(view, given)
    assert scores[:6].min() > scores[6:].max() and given.flagged is None
    assert CognitiveDistillation().told == ()
    told = CognitiveDistillation(sparsity=0.01, oracle=True, gamma=2, clean=20)
    assert told.told == ("clean_set",)
    assert np.array_equal(told.score(view, given), scores)
    clean = np.asarray(given.clean_examples(20).images)
    usual = -CognitiveDistillation(sparsity=0.01).score(TrainingView(clean, view.labels[:20], 2), given)
    assert np.array_equal(given.flagged, -scores < usual.mean() - 2 * usual.std())
    assert given.flagged[:6].all() and given.flagged[6:].mean() < 0.2


def test_on_digits_it_asks_for_nothing_and_concludes_nothing(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "cognitive-distillation:steps=2")
    assert record.oracles == [] and record.decision is None and record.cost.models_trained == 0
    assert record.detection is not None and record.detection.auroc is not None


def test_more_clean_examples_than_there_are(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    run = again(on_digits("badnets:rate=.1", "cognitive-distillation:steps=2,oracle=true"))
    assert run.record.oracles == ["clean_set"] and run.record.decision is not None
    with pytest.raises(BdbenchError, match="clean=1000 is not allowed: expected at most the 72 examples"):
        CognitiveDistillation(steps=2, oracle=True, clean=1000).score(run.view, run.tools())
