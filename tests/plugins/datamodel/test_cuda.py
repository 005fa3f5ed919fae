"""The same small cases on the CPU and on a GPU: within rounding, which training makes larger step by step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import bdbench
from bdbench.networks import training
from bdbench.progress import Silent
from bdbench_datamodel import resnet
from bdbench_datamodel.detector import Datamodel
from bdbench_datamodel.ensemble import BatchedTrainer, SurrogateRecipe, Trainer, draw_subsets
from bdbench_datamodel.resnet import ResNetRecipe, ResNetTrainer, Session
from bdbench_datamodel.surrogates import BatchedMLP, BatchedPatchNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SHAPE, N = (16, 16, 3), 120


@pytest.fixture(autouse=True)
def exact() -> Any:
    """Convolutions of float32, which a GPU would round to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """Three classes of noisy stripes, smooth enough that whitening has one answer."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N)
    wave = np.sin(np.arange(16)[None, :] * (labels[:, None] + 1) * 0.4)[:, None, :, None]
    images = 128 + 60 * wave + 25 * rng.normal(size=(N, *SHAPE))
    return images.clip(0, 255).astype(np.uint8), labels


def _margins(trainer: Trainer, device: str, masks: np.ndarray) -> np.ndarray:
    images, labels = _pictures()
    inputs = trainer.prepare(images, device)
    assert inputs.device.type == torch.device(device).type
    return trainer.margins(inputs, torch.from_numpy(labels).to(device), masks, 3)


def _masks(models: int = 4) -> np.ndarray:
    return draw_subsets(N, models, 0.5, np.random.default_rng(1))


def _near(here: np.ndarray, there: np.ndarray, correlation: float) -> None:
    """What networks do on average, and in what they differ from each other."""
    assert here.shape == there.shape and np.isfinite(there).all()
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > correlation
    own, other = here - here.mean(0), there - there.mean(0)
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > correlation - 0.05


@pytest.mark.parametrize("network", [BatchedMLP(SHAPE, 3, 8), BatchedPatchNet(SHAPE, 3, 8)])
def test_batched_networks_have_the_cpus_margins(network: Any) -> None:
    trainer = BatchedTrainer(network, SurrogateRecipe(epochs=3, batch_size=10, lr=0.02))
    _near(_margins(trainer, "cpu", _masks()), _margins(trainer, "cuda", _masks()), 0.999)
    half = BatchedTrainer(network, SurrogateRecipe(epochs=3, batch_size=10, lr=0.02, precision="bfloat16"))
    _near(_margins(trainer, "cpu", _masks()), _margins(half, "cuda", _masks()), 0.95)


def test_a_chunk_is_chosen_by_the_gpus_memory() -> None:
    trainer = BatchedTrainer(BatchedPatchNet(SHAPE, 3, 8), SurrogateRecipe(epochs=3, batch_size=10, lr=0.02))
    assert trainer.chunk("cpu") <= 100 < trainer.chunk("cuda") <= 300


RECIPE = ResNetRecipe(epochs=3, batch_size=20, lr=0.1)


def test_resnet9_has_the_cpus_margins_with_and_without_a_graph() -> None:
    with_graph, without = (ResNetTrainer(SHAPE, 3, 8, RECIPE, graph=graph) for graph in (True, False))
    here = _margins(without, "cpu", _masks())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _near(here, _margins(with_graph, "cuda", _masks()), 0.98)
    _near(here, _margins(without, "cuda", _masks()), 0.98)


def test_a_step_is_captured_in_either_precision_and_for_grey_images() -> None:
    images, labels = _pictures()
    for shape, precision in ((SHAPE, "float32"), (SHAPE, "bfloat16"), ((16, 16, 1), "bfloat16")):
        trainer = ResNetTrainer.of(shape, 3, N // 2, 8, 4, precision)  # type: ignore[arg-type]
        inputs = trainer.prepare(images[..., : shape[2]], "cuda")
        session = Session(trainer, inputs, torch.from_numpy(labels).cuda(), N // 2)
        assert session.captured
        members = torch.from_numpy(np.flatnonzero(_masks(1)[0])).cuda()
        rows = torch.empty(2, N, device="cuda")
        for row in rows:
            # The second training starts where the first did, whatever the first left behind.
            session.train(members, 1)
            session.margins(row)
        assert torch.isfinite(rows).all() and torch.corrcoef(rows)[0, 1] > 0.95


def test_without_a_graph_it_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    trainer = ResNetTrainer(SHAPE, 3, 8, RECIPE)
    expected = _margins(trainer, "cuda", _masks())
    monkeypatch.setattr(resnet.torch.cuda, "graph", refuse)
    with pytest.warns(UserWarning, match="without a CUDA graph, and slower: operation not permitted when"):
        found = _margins(trainer, "cuda", _masks())
    _near(expected, found, 0.98)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_detector_finds_on_a_gpu_what_it_finds_on_the_cpu(device: str) -> None:
    """Scores hinge on which group is taken, and rounding can tip that: what was planted must come first on both."""
    images, labels = _pictures()
    images[:24, :4, :4] = 255
    labels = np.where(np.arange(N) < 24, 0, labels)
    defense = Datamodel(net="patches", hidden=16, models=200, epochs=15, starts=3, alpha=0.5)
    scores = bdbench.detect(defense, images, labels, num_classes=3, seed=1, device=device)
    assert roc_auc_score(np.arange(N) < 24, scores) > 0.9


def test_a_victim_trained_on_a_gpu_predicts_as_the_cpus() -> None:
    from sklearn.datasets import load_digits

    from bdbench_models.networks import SmallConvNet

    digits = load_digits()
    images = (digits.images[:, :, :, None] * 15).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    recipe = bdbench.Recipe(epochs=5, batch_size=64, lr=0.05)
    logits = [
        training.Trainer(lambda: SmallConvNet(1, 10, 8), recipe, device, Silent().track)
        .train(images[:1200], labels[:1200], 0)
        .logits(images[1200:])
        for device in ("cpu", "cuda")
    ]
    right = [(found.argmax(1) == labels[1200:]).mean() for found in logits]
    assert min(right) > 0.8 and abs(right[0] - right[1]) < 0.03
    assert (logits[0].argmax(1) == logits[1].argmax(1)).mean() > 0.93
