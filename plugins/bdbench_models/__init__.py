"""Networks and the recipes that train them."""

from __future__ import annotations

from bdbench import Architecture, hookimpl


@hookimpl
def bdbench_register_models() -> list[type[Architecture]]:
    """A small convnet, ResNet-9 and PreAct-ResNet-18."""
    from bdbench_models.architectures import ConvNet, PreActResNet18, ResNet9

    return [ConvNet, ResNet9, PreActResNet18]
