"""torchvision's data sets: looked for on disk, fetched only when the user asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split, decoded, param


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(Dataset):
    """A set that torchvision can read and fetch. Subclasses name its class there and say what it holds."""

    peer: ClassVar[str]
    parts: ClassVar[tuple[dict[str, Any], dict[str, Any]]] = ({"train": True}, {"train": False})

    def read(self, source: Source) -> ImageData:
        """Both parts. Raises BdbenchError, saying where it looked, if they are not there or damaged."""
        import torchvision.datasets

        peer = getattr(torchvision.datasets, self.peer)
        root = source.root or Path.home() / ".cache" / "bdbench" / "data"
        try:
            if source.download:
                root.mkdir(parents=True, exist_ok=True)
            train, test = (peer(str(root), download=source.download, **part) for part in self.parts)
        except Exception as error:  # torchvision's readers raise anything on damaged files
            if source.download:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise BdbenchError(f"could not download {self.name} to {root}: {reason}") from None
            raise BdbenchError(
                f"{self.name} was not found in {root}, or its files are damaged: "
                "expected torchvision's files there; --data-root names another folder, --download fetches them"
            ) from None
        found = self.split(train), self.split(test)
        for part, name in zip(found, ("training", "test"), strict=True):
            if len(part.images) != len(part.labels):
                told = f"{len(part.images)} {name} images but {len(part.labels)} labels"
                raise BdbenchError(f"the files of {self.name} in {root} are damaged: {told}")
        return ImageData(*found, self.class_names(train))

    def split(self, part: Any) -> Split:
        """The arrays of one part; most keep them in ``data`` and ``targets``."""
        return Split(np.asarray(part.data), np.asarray(part.targets, np.int64))

    def class_names(self, train: Any) -> tuple[str, ...]:
        """The names of the labels; most keep them in ``classes``."""
        return tuple(str(c) for c in train.classes)


@dataclass(frozen=True, kw_only=True)
class CIFAR10(TorchvisionDataset):
    """50,000 + 10,000 colour images of 32 x 32, 10 classes."""

    name = "cifar10"
    paper = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    peer = "CIFAR10"


@dataclass(frozen=True, kw_only=True)
class CIFAR100(TorchvisionDataset):
    """50,000 + 10,000 colour images of 32 x 32, 100 classes."""

    name = "cifar100"
    paper = CIFAR10.paper
    peer = "CIFAR100"


@dataclass(frozen=True, kw_only=True)
class MNIST(TorchvisionDataset):
    """60,000 + 10,000 grey images of 28 x 28, 10 digits."""

    name = "mnist"
    paper = "LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998"
    peer = "MNIST"


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(TorchvisionDataset):
    """60,000 + 10,000 grey images of 28 x 28, 10 kinds of clothing."""

    name = "fashionmnist"
    paper = "Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747"
    peer = "FashionMNIST"


@dataclass(frozen=True, kw_only=True)
class SVHN(TorchvisionDataset):
    """73,257 + 26,032 colour images of house numbers, 32 x 32, 10 digits."""

    name = "svhn"
    paper = "Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011"
    peer = "SVHN"
    parts = ({"split": "train"}, {"split": "test"})

    def split(self, part: Any) -> Split:
        """torchvision keeps SVHN's images as (n, C, H, W)."""
        return Split(np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)), np.asarray(part.labels, np.int64))

    def class_names(self, train: Any) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(str(d) for d in range(10))


class _Decoded:
    """GTSRB's files, of many sizes, decoded and resized when they are picked."""

    def __init__(self, part: Any, size: int) -> None:
        self.paths, self.size = [Path(path) for path, _ in part._samples], size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return np.stack([decoded(self.paths[i], str(self.paths[i]), self.size) for i in index])


@dataclass(frozen=True, kw_only=True)
class GTSRB(TorchvisionDataset):
    """26,640 + 12,630 colour images of 43 German traffic signs, resized."""

    name = "gtsrb"
    paper = "Stallkamp et al., Man vs. computer, Neural Networks 2012"
    peer = "GTSRB"
    parts = SVHN.parts
    size: int = param(32, help="resize to size x size pixels", low=4)

    def split(self, part: Any) -> Split:
        """Files, not arrays."""
        labels = np.array([label for _, label in part._samples], np.int64)
        return Split(_Decoded(part, self.size), labels)

    def class_names(self, train: Any) -> tuple[str, ...]:
        """The numbers 0 to 42."""
        return tuple(str(c) for c in range(43))
