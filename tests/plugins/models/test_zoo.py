"""Networks of torchvision and timm: four families at 32 x 32, and what is done to them there."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Architecture, BdbenchError
from bdbench.networks.training import Trainer
from bdbench.progress import quiet
from bdbench_models.zoo import Timm, Torchvision

pytest.importorskip("timm")

SHAPES = [(32, 32, 3), (28, 28, 1)]
FOUR: list[Architecture] = [
    Torchvision(net="resnet18", epochs=1),
    Torchvision(net="vgg11_bn", epochs=1),
    Torchvision(net="densenet121", epochs=1),
    Timm(net="vit_tiny_patch16_224", epochs=1),
]


@functools.cache
def built(model: Architecture, shape: tuple[int, int, int]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model.build(shape, 7)


@pytest.mark.parametrize("model", FOUR, ids=lambda m: m.net)
@pytest.mark.parametrize("shape", SHAPES, ids=["colour", "grey"])
def test_features_are_what_enters_the_last_linear_layer(model: Architecture, shape: tuple[int, int, int]) -> None:
    network = copy.deepcopy(built(model, shape)).eval()
    x = torch.randn(2, shape[2], *shape[:2])
    features = network.features(x)  # type: ignore[operator]
    entered: list[torch.Tensor] = []
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_hook(lambda module, given, logits: entered.extend((given[0], logits)))
    logits = network(x)
    assert torch.equal(features, entered[0]) and torch.equal(logits, entered[1])
    assert logits.shape == (2, 7) and features.std() > 0.01


@pytest.mark.parametrize("model", FOUR, ids=lambda m: m.net)
def test_a_step_of_its_recipe_trains_it(model: Architecture) -> None:
    shape = SHAPES[0]
    images = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.uint8)
    fresh = built(model, shape).state_dict()
    trainer = Trainer(lambda: copy.deepcopy(built(model, shape)), model.recipe("cifar10", shape), "cpu", quiet)
    victim = trainer.train(images, np.arange(8) % 7, seed=0)
    assert any(not torch.equal(fresh[k], v) for k, v in victim.network.state_dict().items() if k.startswith("linear"))
    assert np.allclose(trainer.restore(victim.arrays()).logits(images), victim.logits(images), atol=1e-5)


def test_large_images_get_the_library_s_own_network_and_weights() -> None:
    """Bit for bit: what is fitted to small images is not touched otherwise, and nothing more is drawn."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    own = resnet18(num_classes=7).eval()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    network = Torchvision().build((96, 96, 3), 7).eval()
    assert torch.equal(torch.rand(1), drawn)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(network(x), own(x))


def test_small_images_keep_their_pixels() -> None:
    def first_map(model: Architecture, side: int = 32) -> tuple[int, ...]:
        network, seen = copy.deepcopy(built(model, (side, side, 3))).eval(), []
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, given, made: seen.append(tuple(made.shape[2:])))
        network(torch.zeros(1, 3, side, side))
        return seen[0] + seen[1]

    assert first_map(Torchvision()) == first_map(Torchvision(net="densenet121")) == (32, 32, 32, 32)
    assert first_map(Torchvision(), 64) == (64, 64, 64, 64)
    assert first_map(Torchvision(), 72) == (36, 36, 18, 18)
    assert first_map(Torchvision(small=False)) == (16, 16, 8, 8)
    vgg = built(FOUR[1], (32, 32, 3))
    assert sum(p.numel() for p in vgg.parameters()) == 9_229_575


@pytest.mark.parametrize(("side", "patches"), [(8, 8), (28, 7), (32, 8), (64, 8), (96, 8), (224, 14)])
def test_a_transformer_s_patches_are_cut_to_the_image(side: int, patches: int) -> None:
    network = built(Timm(), (side, side, 3))
    assert network.body.patch_embed.grid_size == (patches, patches)  # type: ignore[union-attr]


def test_who_is_trained_how() -> None:
    shape = (32, 32, 3)
    for net, optimizer in (
        ("resnext50_32x4d", "sgd"),
        ("vgg16_bn", "sgd"),
        ("vgg16", "adamw"),
        ("convnext_tiny", "adamw"),
    ):
        assert Torchvision(net=net).recipe("cifar10", shape).optimizer == optimizer
    assert Timm().recipe("cifar10", shape).optimizer == "adamw" and Timm(net="resnet50").recipe("x", shape).lr == 0.1
    assert Torchvision().recipe("cifar10", shape).flip and not Torchvision().recipe("mnist", shape).flip
    assert Timm(epochs=3, lr=1.0).recipe("mnist", shape).lr == 1.0


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        (Torchvision(net="resnet19"), 32, "net=resnet19 is unknown: did you mean 'resnet18'.*models.list_models"),
        (Timm(net="vit_tiny_patch16"), 32, "net=vit_tiny_patch16 is unknown: did you mean 'vit_tiny_patch16_"),
        (Timm(net="hf-hub:timm/resnet18.a1_in1k"), 32, "is unknown"),
        (Torchvision(net="squeezenet1_1"), 32, "does not end in one linear layer"),
        (Timm(net="deit_tiny_distilled_patch16_224"), 32, "does not end in one linear layer"),
        (Torchvision(net="inception_v3"), 32, "cannot take images of 32 x 32 x 3: "),
        (Torchvision(net="vit_b_16"), 28, "cannot take images of 28 x 28 x 3: "),
    ],
    ids=lambda value: getattr(value, "net", None),
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(model: Architecture, side: int, message: str) -> None:
    with pytest.raises(BdbenchError, match=message) as caught:
        model.build((side, side, 3), 7)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BdbenchError, match=r"needs timm: expected pip install 'bdbench\[timm\]'"):
        Timm().build((32, 32, 3), 7)


def test_a_library_is_loaded_where_it_can_compute() -> None:
    """In a process of its own: it is loaded once. With torch 2.6 torchvision's import takes a number of a tensor."""
    program = (
        "import sys, torch\nfrom bdbench_models import zoo\nseen = []\n"
        "class Looks:\n    def find_spec(self, name, *_):\n"
        "        if name == 'torchvision':\n            seen.append(torch.empty(1).device.type)\n"
        "sys.meta_path.insert(0, Looks())\n"
        "with torch.device('meta'):\n    zoo._loaded('torchvision.models')\n"
        "assert seen == ['cpu'], seen\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
