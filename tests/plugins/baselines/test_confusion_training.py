from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bdbench import Batch, Record, Split, Streams
from bdbench_baselines.confusion import Confusion, label_weights
from bdbench_baselines.confusion_rules import distilled, likelihood_ratio


def test_the_best_fitted_and_some_of_each_label_are_distilled() -> None:
    fit, labels = -np.arange(300.0), np.repeat([0, 1, 2], 100)
    assert distilled(fit, labels, 0.1, Streams(0)).tolist() == [*range(30), 100, 101, 200, 201]
    assert distilled(fit, labels, 1.0, Streams(0)).tolist() == list(range(300))
    # Of what is fitted alike, chance decides.
    chosen = [distilled(np.zeros(300), labels, 0.1, Streams(seed)) for seed in range(3)]
    assert [len(indices) for indices in chosen] == [30] * 3
    assert len({indices.tobytes() for indices in chosen}) == 3


def test_rare_labels_weigh_more() -> None:
    weights = label_weights(np.array([0, 0, 0, 1]), 3, equal=False)
    assert weights == pytest.approx([0.751**-0.5, 0.251**-0.5, 0.001**-0.5])
    assert label_weights(np.array([0, 0, 0, 1]), 3, equal=True).tolist() == [1, 1, 1]


def test_the_loss_by_hand() -> None:
    # With two labels, the wrong one is the other. The network says log-odds equal to the pixel.
    clean = Split(np.full((5, 1, 1, 1), 3, np.uint8), np.array([1, 1, 1, 1, 1]))

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), x.flatten()], 1)

    def prepare(images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 3, 1, 2).float()

    x, labels = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1), torch.tensor([1, 0])
    batch = Batch(network, x, labels, torch.arange(2), 0, prepare)  # type: ignore[arg-type]
    found = Confusion(clean, np.array([3.0, 1.0]), 0.25)(batch)
    wrong = np.log(1 + np.exp(3))
    kept = (np.log(1 + np.exp(-2)) + 3 * np.log(1 + np.exp(-1))) / 4
    assert found.item() == pytest.approx(0.75 * wrong + 0.25 * kept, rel=1e-5)


def test_clean_images_never_get_their_own_label() -> None:
    clean = Split(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.arange(4))
    given: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        # So sure of each image's own label that any other costs 50.
        given.append(x)
        return 50.0 * torch.nn.functional.one_hot(x.flatten().long(), 4).float()

    x = torch.zeros(64, 1, 1, 1)
    batch = Batch(network, x, torch.zeros(64, dtype=torch.long), torch.arange(64), 0, lambda i: i.permute(0, 3, 1, 2))  # type: ignore[arg-type]
    assert Confusion(clean, np.ones(4), 0.0)(batch).item() == pytest.approx(50.0)
    assert set(given[0][:64].flatten().tolist()) == {0, 1, 2, 3}


def test_the_ratio_of_likelihoods_by_hand() -> None:
    rng = np.random.default_rng(0)
    rest, apart = rng.normal(0, [3, 1], (200, 2)), rng.normal([40, 0], [0.5, 0.2], (20, 2))
    # Rotated into five dimensions, which changes no distance.
    turned = np.concatenate([rest, apart]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    isolated = np.arange(220) >= 200

    def law(points: np.ndarray, of: np.ndarray) -> np.ndarray:
        shifted = points - of.mean(0)
        covariance = np.cov(of.T) + 1e-3 * np.eye(2)
        distance = np.einsum("ni,ij,nj->n", shifted, np.linalg.inv(covariance), shifted)
        return -(distance + np.log(np.linalg.det(covariance)) + 2 * np.log(2 * np.pi)) / 2

    expected = np.exp((law(apart, apart) - law(apart, rest)).sum() / 220)
    assert likelihood_ratio(turned, isolated) == pytest.approx(expected, rel=1e-3)
    assert expected > np.e
    # Isolated at random, they are as the rest.
    assert likelihood_ratio(rng.normal(size=(400, 6)), rng.random(400) < 0.1) < 1.05
    assert likelihood_ratio(turned, np.arange(220) == 0) == 1.0


def test_a_model_without_a_cluster_has_ratio_one() -> None:
    assert likelihood_ratio(np.ones((30, 4)), np.arange(30) < 15) == pytest.approx(1.0)
    assert likelihood_ratio(np.ones((30, 1)), np.arange(30) < 15) == 1.0


def test_two_examples_far_apart_have_a_ratio() -> None:
    points = np.random.default_rng(0).normal(0, 1e4, (4, 6))
    assert np.isfinite(likelihood_ratio(points, np.arange(4) < 2))


def test_poisons_come_first_where_they_are_easy_to_find(on_digits: Callable[..., Record]) -> None:
    # In fewer steps than by default, and on a third of the images; the test below takes it as it is.
    record = on_digits("badnets:rate=.1", "confusion-training:steps=100", subset=500)
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.98


@pytest.mark.slow  # Eleven trainings, of which fewer steps find nothing.
def test_it_finds_the_patch_on_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "confusion-training:steps=300")
    assert record.oracles == ["clean_set"] and record.access == ["training_set", "clean_set"]
    assert record.detection is not None and record.detection.auroc is not None and record.detection.auroc > 0.98
    decision = record.decision
    assert decision is not None and decision.tpr is not None and decision.tpr > 0.95
    assert decision.fpr is not None and decision.fpr < 0.15
