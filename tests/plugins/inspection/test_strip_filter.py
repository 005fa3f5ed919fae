from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from bdbench import Record, Reopened, Split, Streams, TrainingView
from bdbench_inspection.strip import entropy
from bdbench_inspection.strip_filter import StripFilter


def test_what_may_be_flagged_is_a_share_of_clean_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean scores of 0 and 2: mean and deviation are 1, and so the limit at one deviation is 2."""
    mixes: list[str] = []
    scores = {2: np.array([0.0, 2.0]), 4: np.array([1.9, 2.1, 0.0, 3.4])}
    monkeypatch.setattr(
        "bdbench_inspection.strip_filter._scored",
        lambda strip, images, state, tools: (mixes.append(strip.mix), {"scores": scores[len(images)]})[1],
    )
    told: list[np.ndarray] = []
    tools: Any = SimpleNamespace(
        clean_examples=lambda count: Split(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64)),
        shared_streams=Streams(0),
        saved=lambda config, make: make(),
        conclude=lambda flagged: told.append(flagged),
    )
    view = TrainingView(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int64), 2)
    for frr, mix in ((float(norm.sf(1)), "mean"), (float(norm.sf(2.3)), "sum")):
        StripFilter(frr=frr, mix=mix).score(view, tools)  # type: ignore[arg-type]
    assert [one.tolist() for one in told] == [[False, True, False, True], [False, False, False, True]]
    assert mixes == ["mean", "mean", "sum", "sum"]


def test_scores_and_decision_on_digits(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = on_digits("badnets:rate=.1", "strip-filter:overlays=30")
    detection, decision = record.detection, record.decision
    assert record.oracles == ["clean_set"] and detection is not None and decision is not None
    assert detection.auroc is not None and detection.auroc > 0.95
    assert decision.tpr is not None and decision.tpr > 0.7 and decision.fpr is not None and decision.fpr < 0.05
    run = again(record)
    # Written out, with the overlays that it draws, whatever the pieces.
    given, defense = run.tools(), StripFilter(clean=20)
    monkeypatch.setattr("bdbench_inspection.strip_filter._PIECE", 500)
    scores = defense.score(run.view, given)
    clean = np.asarray(given.clean_examples(20).images)

    def score(image: np.ndarray) -> float:
        others = clean[[not np.array_equal(image, other) for other in clean]]
        mixed = np.minimum(image.astype(int) + others, 255).astype(np.uint8)
        return -float(entropy(given.victim.logits(mixed)).mean())

    assert scores[[0, 700, 1364]] == pytest.approx([score(run.view.images[i]) for i in (0, 700, 1364)], abs=1e-4)
    usual = np.array([score(image) for image in clean])
    assert given.flagged is not None
    limit = usual.mean() + norm.ppf(0.99) * usual.std()
    sure = np.abs(scores - limit) > 1e-3
    assert np.array_equal(given.flagged[sure], (scores > limit)[sure]) and 0 < given.flagged.sum() < 1365
