from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from bdbench import TrainingView
from bdbench_mitigations import ep
from bdbench_mitigations.ep import EntropyPruning, entropies
from tests.plugins.mitigations.repairs import BAD, clean_images, gone, handed, planted, rates


def test_the_entropy_is_that_of_a_histogram() -> None:
    values = np.random.default_rng(0).normal(size=(500, 3)) * [1, 5, 0.01] + [0, 3, 100]
    standard = (values - values.mean(0)) / values.std(0)
    wanted = []
    for column in standard.T:
        edges = column.min() + 0.1 * np.arange(200)
        wanted.append(entropy(np.histogram(column, edges)[0]))
    assert entropies(values, 0.1) == pytest.approx(np.array(wanted))


def test_two_heaps_have_less_entropy_than_one_and_a_constant_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    heaps = np.where(np.arange(1000) < 100, 50.0, 0.0) + rng.normal(size=1000)
    found = entropies(np.stack([rng.normal(size=1000), heaps, np.full(1000, 0.1)], 1), 0.01)
    assert found[1] < found[0] - 1 and found[2] == pytest.approx(found[:2].mean())
    assert np.isfinite(entropies(np.ones((3, 2)), 0.01)).all()


def test_the_channel_with_two_heaps_is_pruned(tmp_path: Path) -> None:
    clean = clean_images(400)
    images = np.array(clean.images)
    images[:20, 3, 3] = 255
    victim = planted()
    ep = EntropyPruning()
    repaired = ep.train(TrainingView(images, clean.labels, 2), handed(ep, victim, tmp_path))
    assert gone(repaired) == [BAD] and gone(victim) == []  # type: ignore[arg-type]
    assert rates(repaired)[1] < 0.1  # type: ignore[arg-type]


def test_a_map_counts_by_its_largest_value() -> None:
    assert ep._largest(torch.tensor([[[[1.0, 2.0], [3.0, 8.0]]]])).tolist() == [[8.0]]


@pytest.mark.parametrize(("settings", "pruned"), [({}, [BAD]), ({"u": 3.5}, []), ({"width": 1e6}, [])])
def test_ep_by_its_settings(settings: Any, pruned: list[int], tmp_path: Path) -> None:
    clean = clean_images(400)
    images = np.array(clean.images)
    images[:20, 3, 3] = 255
    ep = EntropyPruning(**settings)
    repaired: Any = ep.train(TrainingView(images, clean.labels, 2), handed(ep, planted(), tmp_path))
    assert gone(repaired) == pruned and repaired.network.norm.bias[BAD] == -2
