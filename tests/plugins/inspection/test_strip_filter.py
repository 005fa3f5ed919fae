from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from bdbench import Record, Reopened
from bdbench_inspection.strip import entropy
from bdbench_inspection.strip_filter import StripFilter


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
