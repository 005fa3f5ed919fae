from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bdbench_datamodel.ensemble import SurrogateRecipe, draw_subsets, margins, train_parameters
from bdbench_datamodel.surrogates import BatchedMLP, BatchedPatchNet
from bdbench_datamodel.trak import projected, trak


def _setting(n: int = 30) -> tuple[BatchedMLP, list[list[torch.Tensor]], torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    network = BatchedMLP((4, 4, 1), 3, 6)
    inputs = network.prepare(rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8))
    labels = torch.from_numpy(rng.integers(0, 3, n))
    recipe = SurrogateRecipe(epochs=2, batch_size=5, lr=0.05)
    checkpoints = [
        [p[0] for p in train_parameters(network, inputs, labels, draw_subsets(n, 1, 0.5, rng), recipe, seed)]
        for seed in (1, 2)
    ]
    return network, checkpoints, inputs, labels


def test_features_are_projected_gradients_of_the_margin() -> None:
    network, checkpoints, inputs, labels = _setting()
    features, doubt = projected(network, checkpoints[0], inputs, labels, 5, torch.Generator().manual_seed(3))
    count = sum(p.numel() for p in checkpoints[0])
    projection = torch.randn(count, 5, generator=torch.Generator().manual_seed(3)) / 5**0.5
    for i in (0, 7):
        own = [p.clone().requires_grad_() for p in checkpoints[0]]
        logits = network.logits([p.unsqueeze(0) for p in own], inputs[i][None, None])[0, 0]
        margins(logits, labels[i]).backward()
        gradient = torch.cat([p.grad.flatten() for p in own])  # type: ignore[union-attr]
        assert features[i] == pytest.approx(gradient @ projection, abs=1e-5)
        assert doubt[i].item() == pytest.approx(1 - logits.softmax(0)[labels[i]].item(), abs=1e-6)


def test_the_matrix_is_the_papers_formula() -> None:
    network, checkpoints, inputs, labels = _setting()
    found = trak(network, checkpoints, inputs, labels, 4, 0.1, seed=9).dense()
    expected, unfit = np.zeros((30, 30)), np.zeros(30)
    for index, parameters in enumerate(checkpoints):
        generator = torch.Generator().manual_seed(9 + index)
        features, doubt = (x.double().numpy() for x in projected(network, parameters, inputs, labels, 4, generator))
        gram = features.T @ features
        expected += features @ np.linalg.inv(gram + 0.1 * np.trace(gram) / 4 * np.eye(4)) @ features.T / 2
        unfit += doubt / 2
    expected *= unfit
    np.fill_diagonal(expected, 0)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    network, checkpoints, inputs, labels = _setting()
    whole = trak(network, checkpoints, inputs, labels, 4, 0.1, seed=9).dense()
    monkeypatch.setattr("bdbench_datamodel.trak._BATCH_FLOATS", 1000.0)
    assert trak(network, checkpoints, inputs, labels, 4, 0.1, seed=9).dense() == pytest.approx(whole, abs=1e-5)


def test_a_projection_in_bfloat16_gives_the_same_matrix_but_for_rounding() -> None:
    rng = np.random.default_rng(1)
    network = BatchedPatchNet((16, 16, 3), 4, 16)
    inputs = network.prepare(rng.integers(0, 256, (200, 16, 16, 3)).astype(np.uint8))
    labels = torch.from_numpy(rng.integers(0, 4, 200))
    checkpoint = network.initial(torch.Generator().manual_seed(0))
    exact, rounded = (
        trak(network, [checkpoint], inputs, labels, 128, 0.1, seed=9, precision=precision).dense()
        for precision in (torch.float32, torch.bfloat16)
    )
    off = ~np.eye(200, dtype=bool)
    assert spearmanr(exact[off], rounded[off]).statistic > 0.999


def test_more_dimensions_than_examples_and_hardly_a_penalty() -> None:
    network, checkpoints, inputs, labels = _setting(12)
    assert np.isfinite(trak(network, checkpoints, inputs, labels, 64, 1e-7, seed=9).dense()).all()


def test_a_network_whose_first_user_is_trak_still_pickles() -> None:
    network = BatchedPatchNet((16, 16, 3), 4, 4)
    inputs = network.prepare(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8))
    trak(network, [network.initial(torch.Generator())], inputs, torch.arange(6) % 4, 4, 0.1, 0)
    pickle.loads(pickle.dumps(network))
