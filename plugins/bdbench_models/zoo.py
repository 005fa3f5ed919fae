"""Networks of torchvision and timm by their names there; what is done to them, which needs torch, is in ``fitted``."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bdbench import Architecture, BdbenchError, Recipe, param
from bdbench_models.recipes import recipe_for

if TYPE_CHECKING:
    from torch import nn

# Images of a side of so many pixels, and smaller ones, are small.
_SMALL = 64
# Patches are as large as leaves so many of them a side.
_PATCHES = 7
# Convolutions with batch norm, which bear the high rate of SGD.
_NORMED = re.compile(
    r"(wide_)?resne(x)?t|densenet|vgg\d+_bn|googlenet|shufflenet|mobilenet|mnasnet|efficientnet|regnet"
)


@dataclass(frozen=True, kw_only=True)
class _Named(Architecture):
    """A network of another library."""

    library: ClassVar[str]
    net: str = ""
    small: bool | None = param(None, help="change it for small images (none: up to 64 pixels a side)")

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network. Raises BdbenchError for an unknown name, and for images that it does not take."""
        make, names = self._maker(shape, num_classes), self._names()
        if self.net not in names:
            near = " or ".join(map(repr, difflib.get_close_matches(self.net, names, 3, 0.5)))
            hint = f"did you mean {near}? " if near else ""
            raise BdbenchError(f"model {self.name!r}: net={self.net} is unknown: {hint}expected one of {self.library}")
        from bdbench_models.fitted import fitted

        small = min(shape[:2]) <= _SMALL if self.small is None else self.small
        return fitted(f"{self.name}:net={self.net}", make, shape, num_classes, small)

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """That of preact-resnet18, by SGD; by AdamW for networks without batch norm."""
        recipe = recipe_for("preact-resnet18", dataset)
        if _NORMED.match(self.net):
            return recipe
        return replace(recipe, optimizer="adamw", lr=5e-4, weight_decay=0.05)

    @abstractmethod
    def _names(self) -> list[str]: ...

    @abstractmethod
    def _maker(self, shape: tuple[int, int, int], num_classes: int) -> Callable[[], nn.Module]: ...


@dataclass(frozen=True, kw_only=True)
class Torchvision(_Named):
    """Any of torchvision's classifiers, untrained; features are what enters its last linear layer.

    For small images a strided first convolution becomes 3x3 with stride 1, and the max pool after it goes: resnet,
    resnext, densenet, googlenet, shufflenet, mobilenet, efficientnet, mnasnet, regnet, alexnet. vgg gets one linear
    layer on the mean of its last map, not three. Max pools round up. What cuts patches (convnext, swin, vit) stays as
    it is; timm's transformers are fitted.
    """

    name = "torchvision"
    paper = "TorchVision maintainers, TorchVision: PyTorch's Computer Vision library, 2016"
    library = "torchvision.models.list_models()"
    net: str = param("resnet18", help="its name in torchvision.models, such as vgg11_bn, densenet121")

    def _names(self) -> list[str]:
        models = _loaded("torchvision.models")
        return models.list_models(module=models)

    def _maker(self, shape: tuple[int, int, int], num_classes: int) -> Callable[[], nn.Module]:
        own: dict[str, dict[str, Any]] = {
            "googlenet": {"aux_logits": False, "init_weights": True},
            "inception": {"aux_logits": False, "init_weights": True},
            "vit": {"image_size": shape[0]},
            "maxvit": {"input_size": shape[:2]},
        }
        family = self.net.partition("_")[0]
        return functools.partial(
            _loaded("torchvision.models").get_model, self.net, num_classes=num_classes, **own.get(family, {})
        )


@dataclass(frozen=True, kw_only=True)
class Timm(_Named):
    """Any of timm's classifiers, untrained; features are what enters its last linear layer; pip install bdbench[timm].

    Transformers are built for the size of the images. Where a name has a patch, that becomes the largest, up to its
    own, that cuts both sides into at least 7: 4 pixels for images of 28 and 32, 8 for 64, 16 for 224. Convolutions are
    changed for small images as torchvision's are.
    """

    name = "timm"
    paper = "Wightman, PyTorch Image Models, 2019"
    library = "timm.list_models()"
    net: str = param("vit_tiny_patch16_224", help="its name in timm, such as deit_small_patch16_224, convnext_tiny")

    def _names(self) -> list[str]:
        return _timm().list_models()

    def _maker(self, shape: tuple[int, int, int], num_classes: int) -> Callable[[], nn.Module]:
        sized: dict[str, Any] = {"img_size": shape[:2]}
        if own := re.search(r"patch(\d+)", self.net):
            fitting = [p for p in range(1, int(own[1]) + 1) if all(s % p == 0 and s >= _PATCHES * p for s in shape[:2])]
            sized["patch_size"] = max(fitting, default=1)

        def make() -> nn.Module:
            create = functools.partial(_timm().create_model, self.net, num_classes=num_classes, in_chans=shape[2])
            try:
                return create(**sized)
            except TypeError:  # most convolutional networks know no size
                return create()

        return make


def _loaded(library: str) -> Any:
    """A module of another library. A network may be laid out without numbers, and some imports compute with some."""
    import torch

    with torch.device("cpu"):
        return importlib.import_module(library)


def _timm() -> Any:
    try:
        return _loaded("timm")
    except ImportError:
        raise BdbenchError("model 'timm' needs timm: expected pip install 'bdbench[timm]'") from None
