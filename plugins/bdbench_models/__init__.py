"""Networks and the recipes that train them."""

from __future__ import annotations

from bdbench import Architecture, hookimpl


@hookimpl
def bdbench_register_models() -> list[type[Architecture]]:
    """A small convnet, ResNet-9, PreAct-ResNet-18, and the networks of torchvision and timm."""
    from bdbench_models.architectures import ConvNet, PreActResNet18, ResNet9
    from bdbench_models.zoo import Timm, Torchvision

    return [ConvNet, ResNet9, PreActResNet18, Torchvision, Timm]
