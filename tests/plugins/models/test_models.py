from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, relu

from bdbench import Architecture, BdbenchError
from bdbench_models.architectures import ConvNet, PreActResNet18, ResNet9
from bdbench_models.recipes import recipe_for

MODELS: list[Architecture] = [ConvNet(), ResNet9(), PreActResNet18()]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_logits_are_linear_in_the_features(model: Architecture, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = model.build(shape, 7).eval()
    x = torch.randn(2, shape[2], *shape[:2])
    features = network.features(x)  # type: ignore[operator]
    head = network.linear(features)  # type: ignore[operator]
    scale = 1 / 8 if model.name == "resnet9" else 1
    assert features.ndim == 2
    assert torch.allclose(network(x), head * scale, atol=1e-6)
    assert network(x).shape == (2, 7)


def test_the_smallest_images_each_model_takes() -> None:
    assert ConvNet().build((8, 8, 1), 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(BdbenchError, match="model 'resnet9' cannot take images of 8 x 8"):
        ResNet9().build((8, 8, 1), 10)


def test_preact_resnet18_has_the_common_names_shapes_and_order() -> None:
    # Read off the common CIFAR implementation, which BackdoorBench's weights follow.
    expected: list[tuple[str, tuple[int, ...]]] = [("conv1.weight", (64, 3, 3, 3))]
    width_in = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name, first = f"layer{layer}.{block}", width_in if block == 0 else width
            expected += [(f"{name}.bn1.{p}", (first,)) for p in ("weight", "bias")]
            expected.append((f"{name}.conv1.weight", (width, first, 3, 3)))
            expected += [(f"{name}.bn2.{p}", (width,)) for p in ("weight", "bias")]
            expected.append((f"{name}.conv2.weight", (width, width, 3, 3)))
            if first != width:
                expected.append((f"{name}.shortcut.0.weight", (width, first, 1, 1)))
        width_in = width
    expected += [("linear.weight", (10, 512)), ("linear.bias", (10,))]
    network = PreActResNet18().build((32, 32, 3), 10)
    assert [(n, tuple(p.shape)) for n, p in network.named_parameters()] == expected
    assert sum(np.prod(s) for _, s in expected) == 11_171_146


def test_a_recipe_is_the_tables_row_with_the_users_own_numbers() -> None:
    recipe = PreActResNet18().recipe("cifar10", (32, 32, 3))
    assert (recipe.epochs, recipe.lr, recipe.flip) == (60, 0.1, True)
    own = PreActResNet18(epochs=2, lr=0.5, batch_size=7).recipe("cifar10", (32, 32, 3))
    assert (own.epochs, own.lr, own.batch_size, own.flip) == (2, 0.5, 7, True)
    assert PreActResNet18().recipe("gtsrb", (32, 32, 3)).flip is False


def test_a_preactivation_network_computes_what_its_weights_say() -> None:
    """He et al. 2016: normalised and cut off before each convolution; a shortcut that is one takes what was cut off."""
    torch.manual_seed(0)
    network = PreActResNet18().build((32, 32, 3), 10).eval()
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 1:
                weights.uniform_(0.5, 1.5)
    state = network.state_dict()

    def active(x: torch.Tensor, name: str) -> torch.Tensor:
        moments = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return relu(batch_norm(x, *moments, state[f"{name}.weight"], state[f"{name}.bias"]))

    x = torch.randn(2, 3, 32, 32)
    y = conv2d(x, state["conv1.weight"], padding=1)
    for layer, block in itertools.product((1, 2, 3, 4), (0, 1)):
        name, stride = f"layer{layer}.{block}", 2 if layer > 1 and not block else 1
        into, shortcut = active(y, f"{name}.bn1"), state.get(f"{name}.shortcut.0.weight")
        beside = y if shortcut is None else conv2d(into, shortcut, stride=stride)
        middle = active(conv2d(into, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn2")
        y = conv2d(middle, state[f"{name}.conv2.weight"], padding=1) + beside
    with torch.no_grad():
        expected = y.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
        assert torch.allclose(network(x), expected, rtol=1e-3, atol=1e-3)


def test_digits_letters_and_signs_are_not_mirrored() -> None:
    names = ("mnist", "fashionmnist", "svhn", "gtsrb", "gtsrb-full", "digits", "cifar10")
    assert [name for name in names if recipe_for("resnet9", name).flip] == ["cifar10"]


def test_small_sets_have_smaller_batches() -> None:
    assert [recipe_for("convnet", name).batch_size for name in ("digits", "cifar10")] == [64, 128]
