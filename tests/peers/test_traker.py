"""TRAK against traker: ``pip install traker`` (its C++ extension is not needed), then ``pytest -m peers``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bdbench_datamodel.ensemble import SurrogateRecipe, train_parameters
from bdbench_datamodel.surrogates import BatchedMLP, BatchedNetwork
from bdbench_datamodel.trak import trak

pytestmark = pytest.mark.peers


class Network(torch.nn.Module):
    """The batched network as an ordinary one of torch, its parameters in the same order."""

    def __init__(self, network: BatchedNetwork, parameters: list[torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.own = torch.nn.ParameterList([torch.nn.Parameter(p.clone()) for p in parameters])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.logits([p.unsqueeze(0) for p in self.own], x.unsqueeze(0))[0]


def _setting(n: int) -> tuple[BatchedMLP, list[torch.Tensor], torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    network = BatchedMLP((8, 8, 1), 10, 16)
    labels = rng.integers(0, 10, n)
    images = (rng.integers(0, 128, (n, 8, 8, 1)) + 12 * labels[:, None, None, None]).astype(np.uint8)
    inputs, targets = network.prepare(images), torch.from_numpy(labels)
    recipe = SurrogateRecipe(epochs=3, batch_size=16, lr=0.05)
    parameters = [p[0] for p in train_parameters(network, inputs, targets, np.ones((1, n), bool), recipe, 1)]
    return network, parameters, inputs, targets


def test_both_give_the_same_scores(tmp_path: Path) -> None:
    trak_module = pytest.importorskip("trak")
    from trak.projectors import AbstractProjector, ProjectionType
    from trak.utils import vectorize

    n, dimension, seed, penalty = 200, 64, 5, 0.1
    network, parameters, inputs, labels = _setting(n)
    ours = trak(network, [parameters], inputs, labels, dimension, penalty, seed).dense()

    count = sum(p.numel() for p in parameters)
    projection = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)) / dimension**0.5

    class Same(AbstractProjector):
        def __init__(self) -> None:
            super().__init__(count, dimension, 0, ProjectionType.normal, torch.device("cpu"))

        def project(self, grads: dict[str, torch.Tensor], model_id: int) -> torch.Tensor:
            return vectorize(grads, device="cpu") @ projection

        def free_memory(self) -> None:
            pass

    model = Network(network, parameters).eval()
    # Its penalty is absolute, of gradients over the root of their number; ours is in mean eigenvalues of Phi'Phi.
    features = trak_features(model, inputs, labels, projection)
    ridge = penalty * float((features**2).sum()) / dimension / count
    traker = trak_module.TRAKer(
        model=model,
        task="image_classification",
        train_set_size=n,
        save_dir=str(tmp_path / "trak"),
        device="cpu",
        projector=Same(),
        proj_dim=dimension,
        use_half_precision=False,
        lambda_reg=ridge,
    )
    state = model.state_dict()
    traker.load_checkpoint(state, model_id=0)
    traker.featurize(batch=(inputs, labels), num_samples=n)
    traker.finalize_features()
    traker.start_scoring_checkpoint(exp_name="all", checkpoint=state, model_id=0, num_targets=n)
    traker.score(batch=(inputs, labels), num_samples=n)
    theirs = np.array(traker.finalize_scores(exp_name="all")).T  # theirs is train by targets
    off = ~np.eye(n, dtype=bool)
    assert spearmanr(ours[off], theirs[off]).statistic > 0.99
    assert np.corrcoef(ours[off], theirs[off])[0, 1] > 0.999


def trak_features(model: Network, inputs: torch.Tensor, labels: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        logits = model(x[None])[0]
        others = torch.cat([logits[:y], logits[y + 1 :]])
        gradients = torch.autograd.grad(logits[y] - others.logsumexp(0), list(model.own))
        rows.append(torch.cat([g.flatten() for g in gradients]) @ projection)
    return torch.stack(rows)
