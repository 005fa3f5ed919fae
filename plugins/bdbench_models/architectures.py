"""The model components; the networks themselves, which need torch, are in ``networks``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bdbench import Architecture, BdbenchError, Recipe, param
from bdbench_models.recipes import recipe_for

if TYPE_CHECKING:
    from torch import nn


def _at_least(name: str, shape: tuple[int, int, int], smallest: int) -> None:
    if min(shape[:2]) < smallest:
        size = f"{shape[0]} x {shape[1]}"
        raise BdbenchError(f"model {name!r} cannot take images of {size}: expected at least {smallest} pixels a side")


class _FromTable:
    """The recipe is a row of the table in ``recipes``."""

    name: ClassVar[str]

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """The row of this model and data set."""
        return recipe_for(self.name, dataset)


@dataclass(frozen=True, kw_only=True)
class ConvNet(_FromTable, Architecture):
    """Three 3x3 convolutions with batch norm and pooling, for images of 8 x 8 to 32 x 32."""

    name = "convnet"
    width: int = param(32, help="channels of the first convolution; doubled twice", low=1)

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network. Raises BdbenchError below 8 pixels a side."""
        from bdbench_models.networks import SmallConvNet

        _at_least(self.name, shape, 8)
        return SmallConvNet(shape[2], num_classes, self.width)


@dataclass(frozen=True, kw_only=True)
class ResNet9(_FromTable, Architecture):
    """The nine-layer residual network of fast CIFAR training, as in the datamodels papers."""

    name = "resnet9"
    paper = "Page, How to Train Your ResNet, 2018; Ilyas et al., Datamodels, ICML 2022"

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network. Raises BdbenchError below 16 pixels a side."""
        from bdbench_models.networks import ResNet9 as Network

        _at_least(self.name, shape, 16)
        return Network(shape[2], num_classes)


@dataclass(frozen=True, kw_only=True)
class PreActResNet18(_FromTable, Architecture):
    """PreAct-ResNet-18 for small images; parameter names and order of the common CIFAR implementation."""

    name = "preact-resnet18"
    paper = "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016"

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network. Raises BdbenchError below 8 pixels a side."""
        from bdbench_models.networks import PreActResNet18 as Network

        _at_least(self.name, shape, 8)
        return Network(shape[2], num_classes)
