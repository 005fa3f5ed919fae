"""ART's poison detectors here, and ours there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench import TrainingView, Victim
from bdbench_models.architectures import ConvNet


@pytest.fixture
def art() -> Any:
    pytest.importorskip("art.defences.detector.poison")
    from bdbench.interop import art

    return art


@pytest.fixture
def view() -> TrainingView:
    rng = np.random.default_rng(0)
    return TrainingView(rng.integers(0, 256, (240, 8, 8, 1)).astype(np.uint8), np.arange(240) % 3, 3)


@pytest.fixture
def victim() -> Victim:
    torch.manual_seed(0)
    network = ConvNet(width=16).build((8, 8, 1), 3).eval()
    return Victim(network, np.array([0.4], np.float32), np.array([0.2], np.float32), "cpu")


def test_its_classifier_gives_the_victims_logits_and_features(art: Any, victim: Victim, view: TrainingView) -> None:
    classifier = art.classifier_of(victim, 3, (8, 8, 1))
    x = view.images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert np.allclose(classifier.predict(x), victim.logits(view.images), atol=1e-5)
    layer = len(classifier.layer_names) - 1
    assert np.allclose(classifier.get_activations(x, layer=layer), victim.features(view.images), atol=1e-5)


def test_its_spectral_scores_are_those_it_computes(art: Any, victim: Victim, view: TrainingView) -> None:
    scores = art.spectral_scores(victim, view, 0)
    features = victim.features(view.images)
    for label in range(3):
        members = view.labels == label
        theirs = art.SpectralSignatureDefense.spectral_signature_scores(features[members])
        assert np.allclose(scores[members], theirs[:, 0], rtol=1e-4)


def test_its_activation_clustering_suspects_and_is_seeded(art: Any, victim: Victim, view: TrainingView) -> None:
    np.random.seed(5)
    before = np.random.get_state()[1]
    first, again = (art.activation_scores(victim, view, 7) for _ in "ab")
    assert set(first) == {0.0, 1.0} and np.array_equal(first, again)
    assert np.array_equal(np.random.get_state()[1], before)
    for label in range(3):
        assert first[view.labels == label].mean() <= 0.5


@pytest.mark.parametrize("detector", ["activation", "spectral"])
def test_it_runs_as_a_defense(art: Any, tiny: dict[str, Any], detector: str) -> None:
    record = bdbench.run(defense=f"art:detector={detector}", **tiny)
    assert record.detection is not None and record.detection.auroc is not None


@pytest.mark.parametrize("one_hot", [False, True])
def test_ours_runs_there(art: Any, victim: Victim, view: TrainingView, one_hot: bool) -> None:
    classifier = art.classifier_of(victim, 3, (8, 8, 1))
    x = view.images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    y = np.eye(3)[view.labels] if one_hot else view.labels
    defence = art.BdbenchDefence(classifier, x, y, defense="low-loss", budget=0.05)
    assert isinstance(defence, art.PoisonFilteringDefence)
    report, clean = defence.detect_poison()
    expected = bdbench.detect("low-loss", view.images, view.labels, num_classes=3, victim=victim, device="cpu")
    assert np.allclose(report["scores"], expected, atol=1e-4)
    suspected = np.flatnonzero(np.array(clean) == 0)
    assert len(suspected) == 12 and expected[suspected].min() >= np.sort(expected)[-12]
    _, more = defence.detect_poison(budget=0.1)
    assert sum(more) == 216
    truth = np.ones(240, int)
    truth[suspected] = 0
    matrix = json.loads(defence.evaluate_defence(truth, budget=0.05))
    counts = {k: sum(matrix[f"class_{c}"][k]["numerator"] for c in range(3)) for k in matrix["class_0"]}
    assert counts == {"TruePositive": 12, "TrueNegative": 228, "FalsePositive": 0, "FalseNegative": 0}
    with pytest.raises(bdbench.BdbenchError, match="budget=2 is not allowed"):
        defence.detect_poison(budget=2)
