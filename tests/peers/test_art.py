"""Against the Adversarial Robustness Toolbox: the same features, models, images and overlays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Streams
from bdbench_baselines.activation_clustering import ActivationClustering
from bdbench_baselines.spectral import SpectralSignatures, spectral_scores
from bdbench_inspection.neural_cleanse import anomaly
from bdbench_inspection.strip import Strip
from bdbench_triggers.pgd import perturb

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("seed", range(5))
def test_on_centred_features_the_toolbox_gives_the_absolute_projection(seed: int) -> None:
    art = pytest.importorskip("art.defences.detector.poison")
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, 20)) * rng.uniform(0.5, 2, 20)
    features[:15] += 3
    centred = features - features.mean(0)
    theirs = np.asarray(art.SpectralSignatureDefense.spectral_signature_scores(centred)).ravel()
    ours = spectral_scores(features)
    assert np.allclose(theirs**2, ours, rtol=1e-5)
    assert np.array_equal(np.argsort(-theirs), np.argsort(-ours))


@pytest.mark.parametrize("poisons", [4, 12, 30])
def test_told_the_rate_spectral_signatures_flag_what_the_toolbox_does(poisons: int) -> None:
    """The toolbox takes a share of each class, the paper and we a number: of classes of one size they are the same."""
    art = pytest.importorskip("art.defences.detector.poison")
    rng, labels = np.random.default_rng(poisons), np.arange(300) % 3
    features = rng.normal(size=(300, 20)) * rng.uniform(0.5, 2, (3, 20))[labels]
    poisoned = np.flatnonzero(labels == 1)[:poisons]
    features[poisoned] += 2
    # The toolbox projects features as they are, the paper and we those less their class's mean.
    for label in range(3):
        features[labels == label] -= features[labels == label].mean(0)
    network = SimpleNamespace(
        layer_names=["features"], nb_classes=3, get_activations=lambda images, layer, batch_size: images
    )
    rate = poisons / 300
    theirs = art.SpectralSignatureDefense(network, features, labels, expected_pp_poison=3 * rate)
    clean = np.array(theirs.detect_poison()[1], bool)
    concluded: dict[str, np.ndarray] = {}
    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(features=lambda images: images),
        streams=Streams(0),
        oracle={"poison_rate": rate}.__getitem__,
        conclude=lambda **said: concluded.update(said),
    )
    SpectralSignatures(oracle=True).score(SimpleNamespace(images=features, labels=labels), tools)  # type: ignore[arg-type]
    assert np.array_equal(concluded["flagged"], ~clean)
    assert (~clean).sum() == 3 * round(1.5 * poisons)
    assert (~clean)[poisoned].mean() > 0.9


@pytest.mark.parametrize("small", [0.1, 0.3, 0.45])
def test_activation_clustering_finds_the_toolboxs_clusters(small: float) -> None:
    """Of the same features of two classes: in the first a part lies apart, which is flagged where it is small."""
    theirs = pytest.importorskip("art.defences.detector.poison.activation_defence")
    rng, labels = np.random.default_rng(3), np.repeat([0, 1], 200)
    features = rng.normal(size=(400, 30)) * np.linspace(2, 0.5, 30)
    features[: round(200 * small), :5] += 9
    expected, _ = theirs.cluster_activations([features[labels == label] for label in (0, 1)], reduce="PCA")
    concluded: dict[str, np.ndarray] = {}
    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(features=lambda images: features),
        streams=Streams(0),
        track=lambda total, label: lambda steps: None,
        conclude=lambda **said: concluded.update(said),
    )
    view: Any = SimpleNamespace(images=features, labels=labels, num_classes=2)
    scores = ActivationClustering().score(view, tools)
    found = scores[labels == 0] > 0
    assert np.array_equal(found, expected[0] == expected[0][0])
    assert found.mean() == pytest.approx(small) and scores[0] == pytest.approx(1 - small)
    assert np.array_equal(concluded["flagged"][labels == 0], found & (small < 0.35))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()


def classifier(model: nn.Module) -> Any:
    estimators = pytest.importorskip("art.estimators.classification")
    return estimators.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )


@pytest.mark.parametrize(("norm", "theirs", "eps"), [("linf", np.inf, 8 / 255), ("l2", 2, 1.0)])
def test_descent_gives_the_same_images(norm: Any, theirs: Any, eps: float) -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    model = small_network()
    x = np.random.default_rng(1).random((12, 3, 8, 8)).astype(np.float32)
    labels = np.arange(12) % 10
    attack = evasion.ProjectedGradientDescent(
        classifier(model), norm=theirs, eps=eps, eps_step=eps / 8, max_iter=20, num_random_init=0, verbose=False
    )
    expected = attack.generate(x, np.eye(10, dtype=np.float32)[labels])
    found = perturb(model, torch.from_numpy(x), torch.from_numpy(labels), norm, eps, 20, eps / 8, lambda done: None)
    assert np.abs(expected - x).max() > 0.5 * eps / 10
    assert np.allclose(found.numpy(), expected, atol=2e-5)


def test_strip_gives_the_entropies_of_the_toolboxs_superpositions() -> None:
    theirs = pytest.importorskip("art.estimators.poison_mitigation.strip.strip")
    from scipy.special import softmax
    from scipy.stats import entropy

    model, rng = small_network(), np.random.default_rng(2)
    # Even grey levels: half of a sum of two is one, too.
    images, overlays = (2 * rng.integers(0, 128, (count, 8, 8, 3)).astype(np.uint8) for count in (15, 6))

    def scaled(batch: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2).astype(np.float32) / 255)

    def logits(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(scaled(batch))).numpy()

    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(logits=logits), streams=Streams(0), track=lambda total, label: lambda steps: None
    )
    found = Strip(mix="mean").score(images, {"overlays": overlays}, tools)
    network = classifier(model)
    for image, score in zip(scaled(images), found, strict=True):
        mixed = np.array([theirs.combine_images(image, overlay) for overlay in scaled(overlays)])
        # The toolbox itself takes the entropy along axis 0, which is of the overlays and not of the classes.
        expected = entropy(softmax(network.predict(mixed), axis=1), base=2, axis=1).mean()
        assert -score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_neural_cleanse_flags_the_labels_that_the_toolbox_does(seed: int) -> None:
    """For the same masks; the toolbox reverses them in Keras alone, which is not at hand."""
    theirs = pytest.importorskip("art.estimators.poison_mitigation.neural_cleanse.neural_cleanse")
    rng = np.random.default_rng(seed)
    masks = rng.uniform(0.2, 0.4, (10, 8, 8, 1))
    masks[seed : seed + 2] *= 0.2 + 0.3 * seed

    class Reversed(theirs.NeuralCleanseMixin):  # type: ignore[misc, name-defined]
        nb_classes = 10

        def __init__(self) -> None:
            pass

        def generate_backdoor(self, x: Any, y: Any, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return masks[target.argmax()], np.zeros(1)

    flagged = [label for label, _, _ in Reversed().outlier_detection(np.zeros(0), np.zeros(0))]
    assert np.flatnonzero(anomaly(masks.sum((1, 2, 3))) > 2).tolist() == flagged
    assert seed > 1 or flagged == [seed, seed + 1]
