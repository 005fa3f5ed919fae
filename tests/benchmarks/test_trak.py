"""The TRAK matrix of 5,000 examples beside traker's, same network and projection dimension: ``pip install traker``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bdbench_datamodel.surrogates import BatchedPatchNet
from bdbench_datamodel.trak import trak
from tests.peers.test_traker import Network

N, DIMENSION, BATCH = 5_000, 512, 100


Setting = tuple[BatchedPatchNet, list[torch.Tensor], torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def setting() -> Setting:
    """A network, its parameters, inputs and labels; torch's own compiler is loaded by a first gradient."""
    made = _setting()
    network, parameters, inputs, labels = made
    trak(network, [parameters], inputs[:50], labels[:50], 8, 0.1, 0)
    return made


def _setting() -> Setting:
    rng = np.random.default_rng(0)
    network = BatchedPatchNet((32, 32, 3), 10, 64)
    inputs = network.prepare(rng.integers(0, 256, (N, 32, 32, 3)).astype(np.uint8))
    return network, network.initial(torch.Generator().manual_seed(0)), inputs, torch.from_numpy(rng.integers(0, 10, N))


def ours(
    network: BatchedPatchNet, parameters: list[torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor
) -> np.ndarray:
    return trak(network, [parameters], inputs, labels, DIMENSION, 0.1, 0, precision=torch.bfloat16).dense()


def trakers(
    network: BatchedPatchNet, parameters: list[torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor
) -> np.ndarray:
    module = pytest.importorskip("trak")
    model = Network(network, parameters).eval()
    folder = tempfile.mkdtemp()
    try:
        traker = module.TRAKer(
            model=model, task="image_classification", train_set_size=N, save_dir=f"{folder}/trak", device="cpu",
            proj_dim=DIMENSION, use_half_precision=False,
        )  # fmt: skip
        state = model.state_dict()
        batches = list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))
        traker.load_checkpoint(state, model_id=0)
        for batch in batches:
            traker.featurize(batch=batch, num_samples=len(batch[1]))
        traker.finalize_features()
        traker.start_scoring_checkpoint(exp_name="all", checkpoint=state, model_id=0, num_targets=N)
        for batch in batches:
            traker.score(batch=batch, num_samples=len(batch[1]))
        return np.array(traker.finalize_scores(exp_name="all"))
    finally:
        shutil.rmtree(folder)


@pytest.mark.benchmark(group=f"TRAK, n = {N:,}, {DIMENSION} dimensions, one checkpoint")
@pytest.mark.parametrize("function", [ours, trakers])
def test_trak(benchmark: Any, setting: Setting, function: Callable[..., np.ndarray]) -> None:
    assert benchmark.pedantic(function, args=setting, rounds=3).shape == (N, N)
