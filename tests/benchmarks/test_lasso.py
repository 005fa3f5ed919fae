"""Sparse regressions of every example beside scikit-learn's: ``pytest tests/benchmarks --benchmark-only -n 0``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from bdbench_datamodel.ensemble import draw_subsets
from bdbench_datamodel.lasso import lasso

N, NETWORKS, PENALTY = 1_000, 300, 0.3


@pytest.fixture(scope="module")
def ensemble() -> tuple[np.ndarray, np.ndarray]:
    """Subsets and margins of a sparse datamodel: each example helps itself, and twenty others a little."""
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(N, N)) * (rng.random((N, N)) < 20 / N) + 5 * np.eye(N)
    masks = draw_subsets(N, NETWORKS, 0.2, rng)
    margins = (masks @ planted.T + rng.normal(size=(NETWORKS, N))).astype(np.float32)
    lasso(masks[:, :70], margins[:, :70], PENALTY)  # compiled
    return masks, margins


def ours(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    return lasso(masks, margins, PENALTY).weights


def scikit_learns(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    held = np.asfortranarray(masks - masks.mean(0))
    outputs = margins - margins.mean(0)
    gram, weights = held.T @ held, np.empty((N, N))
    for target in range(N):
        limit = PENALTY * np.abs(held.T @ outputs[:, target]).max() / NETWORKS
        regression = Lasso(alpha=limit, precompute=gram, fit_intercept=False)
        weights[target] = regression.fit(held, outputs[:, target]).coef_
    return weights


@pytest.mark.benchmark(group=f"lasso of {N:,} examples on {NETWORKS} networks")
@pytest.mark.parametrize("function", [ours, scikit_learns])
def test_lasso(benchmark: Any, ensemble: tuple[np.ndarray, np.ndarray], function: Callable[..., np.ndarray]) -> None:
    weights, expected = benchmark.pedantic(function, args=ensemble, rounds=3), scikit_learns(*ensemble)
    assert np.abs(weights - expected).max() < 0.01 * np.abs(expected).max()
