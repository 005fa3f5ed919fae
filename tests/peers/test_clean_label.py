"""Clean-label attacks against the Adversarial Robustness Toolbox: the same network, images and steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Recipe, Split, Streams
from bdbench_triggers import matching
from bdbench_triggers.collision import Pairing, collide
from bdbench_triggers.label_consistent import LabelConsistent
from tests.peers.test_art import classifier, small_network

pytestmark = pytest.mark.peers

CLASSES = 10


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 8, 8)).astype(np.float32)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[labels]


def patched(x: np.ndarray) -> np.ndarray:
    stamped = x.copy()
    stamped[:, :, -3:, -3:] = 1
    return stamped


def backdoor(change: Any) -> Any:
    return pytest.importorskip("art.attacks.poisoning").PoisoningAttackBackdoor(change)


def collided(pairing: Pairing, *, batch: int = 12, steps: int = 40) -> tuple[np.ndarray, np.ndarray, float, float]:
    """ART's images and ours, and the sums of squared distances to the nearest patched source of their own."""
    art = pytest.importorskip("art.attacks.poisoning")
    model, x, labels = small_network(), pictures(24, 1), np.repeat([1, 4], 12)
    theirs = classifier(model)
    attack = art.HiddenTriggerBackdoorPyTorch(
        theirs,
        target=one_hot(np.array(1)),
        source=one_hot(np.array(4)),
        feature_layer=theirs.layer_names[2],
        backdoor=backdoor(patched),
        eps=16 / 255,
        learning_rate=0.02,
        decay_coeff=0.5,
        decay_iter=20,
        stopping_threshold=0,
        max_iter=steps,
        batch_size=batch,
        poison_percent=1.0,
        verbose=False,
    )
    np.random.seed(0)
    found, index = attack.poison(x, one_hot(labels))
    # The same draws again.
    np.random.seed(0)
    assert np.array_equal(index, np.random.choice(np.flatnonzero(labels == 1), 12, replace=False))
    source = np.random.choice(np.flatnonzero(labels == 4), 12, replace=False)
    features = model[:3]
    ours, distance = collide(
        features,
        torch.from_numpy(x[index]),
        torch.from_numpy(patched(x[source])),
        eps=16 / 255,
        lr=lambda step: 0.02 * 0.5 ** (step // 20),
        steps=steps,
        pairing=pairing,
        advance=lambda done: None,
    )
    assert np.abs(found - x[index]).max() > 0.9 * 16 / 255
    with torch.no_grad():
        sources = features(torch.from_numpy(patched(x[source])))
        reached = torch.cdist(features(torch.from_numpy(found)), sources).min(1).values.square().sum()
    return found, ours.numpy(), float(reached), float(distance.sum())


def test_collision_gives_arts_images_if_pairs_are_made_its_way() -> None:
    theirs, ours, reached, _ = collided("released")
    assert np.allclose(theirs, ours, atol=1e-5)
    _, one_to_one, _, distance = collided("one-to-one")
    # Its pairs leave sources out: its images are nearer to those they have, and other ones than with pairs one to one.
    assert not np.allclose(one_to_one, theirs, atol=1e-3) and reached < distance


def sleeper(model: nn.Module, **options: Any) -> Any:
    art = pytest.importorskip("art.attacks.poisoning.sleeper_agent_attack")
    processing = pytest.importorskip("art.preprocessing.standardisation_mean_std.pytorch")
    estimators = pytest.importorskip("art.estimators.classification")
    theirs = estimators.PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (3, 8, 8),
        CLASSES,
        clip_values=(0.0, 1.0),
        preprocessing=processing.StandardisationMeanStdPyTorch(mean=0.0, std=1.0, device_type="cpu"),
        device_type="cpu",
    )
    patch = np.ones((3, 3, 3), np.float32)
    indices = np.arange(30)
    return art.SleeperAgentAttack(theirs, 0.5, patch, indices, epsilon=16 / 255, verbose=0, **options)


def test_poisons_are_those_that_art_selects() -> None:
    model, x = small_network(), pictures(30, 2)
    labels = np.full(30, 3)
    theirs = sleeper(model)._select_poison_indices(sleeper(model).substitute_classifier, x, labels, 7)
    lengths = matching.norms(model, torch.from_numpy(x), torch.from_numpy(labels), lambda done: None)
    assert set(theirs.tolist()) == set(np.argsort(-lengths)[:7].tolist())


def test_gradients_are_matched_as_arts_are_and_at_least_as_well() -> None:
    steps = 60
    model, x, shown = small_network(), pictures(12, 3), patched(pictures(20, 4))
    labels, wanted_labels = np.full(12, 3), np.full(20, 3)
    attack = sleeper(model, max_epochs=steps, learning_rate_schedule=([0.1, 0.01, 0.001], [22, 37, 52]))
    attack._initialize_poison_pytorch(shown, wanted_labels, x, labels)
    inputs = torch.from_numpy(x), torch.from_numpy(labels)
    wanted = matching.gradient(model, torch.from_numpy(shown), torch.from_numpy(wanted_labels))

    def loss(moved: np.ndarray) -> float:
        found = matching.gradient(model, torch.from_numpy(moved), inputs[1])
        return float(matching.apart(found, wanted))

    noise = attack.backdoor_model.noise_embedding.embedding_layer.weight
    for change in (0.0, 0.7):
        with torch.no_grad():
            noise.fill_(change)
        score, moved = attack.backdoor_model(inputs[0], torch.arange(12), inputs[1], attack.grad_ws_norm)
        assert score.item() == pytest.approx(loss(moved.detach().numpy()), abs=1e-5)
    attack._initialize_poison_pytorch(shown, wanted_labels, x, labels)
    theirs, score = attack._poison__pytorch(x, labels)
    assert float(score) == pytest.approx(loss(theirs), abs=1e-5)
    ours = matching.match(
        model,
        *inputs,
        wanted,
        {"change": np.zeros_like(x)},
        eps=16 / 255,
        unit=torch.full((3, 1, 1), 0.25),
        steps=range(steps),
        total=steps,
        lr=0.1,
        batch=512,
        recipe=Recipe(1, 1, 0.1),
        generator=torch.Generator(),
        advance=lambda done: None,
    )
    reached = loss((x + 0.25 * ours["change"]).astype(np.float32))
    assert np.abs(theirs - x).max() <= 16 / 255 + 1e-6
    assert reached <= loss(theirs) + 0.01 < loss(x)


@pytest.mark.parametrize(("norm", "theirs", "eps"), [("linf", np.inf, 8.0), ("l2", 2, 60.0)])
def test_label_consistent_perturbs_as_art_does(norm: Any, theirs: Any, eps: float) -> None:
    art = pytest.importorskip("art.attacks.poisoning")
    model = small_network()
    images = np.random.default_rng(5).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    x = (images.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    # ART descends from what the network predicts, the paper from the label: here they are the same.
    labels = model(torch.from_numpy(x)).argmax(1).numpy()
    target = int(np.bincount(labels).argmax())
    chosen = np.flatnonzero(labels == target)
    attack = LabelConsistent(norm=norm, eps=eps, steps=20, target=target, rate=len(chosen) / 60)
    tools: Any = SimpleNamespace(
        streams=Streams(0),
        num_classes=CLASSES,
        device="cpu",
        track=lambda total, label: lambda done: None,
        train=lambda images, labels, name, **_: SimpleNamespace(module=lambda: model),
    )
    ours = attack.craft(Split(images, labels), tools)
    assert np.array_equal(ours["index"], chosen)
    bound = eps / 255
    peer = art.PoisoningAttackCleanLabelBackdoor(
        backdoor(lambda x: x),
        classifier(model),
        one_hot(np.array(target)),
        pp_poison=0.9,
        norm=theirs,
        eps=bound,
        eps_step=2.5 * bound / 20,
        max_iter=20,
    )
    found, _ = peer.poison(x, one_hot(labels))
    moved = np.flatnonzero((found != x).any((1, 2, 3)))
    assert len(moved) and np.isin(moved, chosen).all()
    expected = found[moved].transpose(0, 2, 3, 1) * 255
    assert np.abs(ours["images"][np.searchsorted(chosen, moved)] - expected).max() <= 0.5 + 0.02
