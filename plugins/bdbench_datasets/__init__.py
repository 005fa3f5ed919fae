"""Data sets: an embedded default, torchvision's, those of other packages, and the user's own files."""

from __future__ import annotations

from bdbench import Dataset, hookimpl


@hookimpl
def bdbench_register_datasets() -> list[type[Dataset]]:
    """Digits, 5,000 of MNIST, characters, torchvision's sets, image folders, npz and parquet files."""
    from bdbench_datasets.characters import Characters
    from bdbench_datasets.digits import Digits
    from bdbench_datasets.imagefolder import ImageFolder
    from bdbench_datasets.mnist5k import MNIST5k
    from bdbench_datasets.npz import Npz
    from bdbench_datasets.parquet import Parquet
    from bdbench_datasets.vision import CIFAR10, CIFAR100, GTSRB, MNIST, SVHN, FashionMNIST

    return [Digits, MNIST5k, Characters, CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN, GTSRB, ImageFolder, Npz, Parquet]
