from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import BdbenchError, Dataset, ImageData, Source, Split
from bdbench.testing import check_dataset
from tests.testing.broken import COMPONENT_CHECKS, Broken, expect_complete, expect_fault


def _images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 1)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Noise(Dataset):
    """Noise."""

    name = "noise"

    def read(self, source: Source) -> ImageData:
        return ImageData(Split(_images(30), np.arange(30) % 3), Split(_images(6, 1), np.arange(6) % 3), ("a", "b", "c"))


class Floats(Noise):
    """Images in 0..255 as floats."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(Split(_images(30).astype(float), data.train.labels), data.test, data.classes)


class OneClassShort(Noise):
    """A label without a name."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(data.train, data.test, ("a", "b"))


class OneClassMore(Noise):
    """A name without examples."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(data.train, data.test, (*data.classes, "unicorn"))


class Needy(Noise):
    """Needs files and says so badly."""

    def read(self, source: Source) -> ImageData:
        (source.root or Path()).joinpath("images.bin").read_bytes()
        return super().read(source)


class Chatty(Noise):
    """Needs files and says so in two lines."""

    def read(self, source: Source) -> ImageData:
        raise BdbenchError("no files\nat all")


class Fetching(Noise):
    """Fetches what it was not asked to."""

    def read(self, source: Source) -> ImageData:
        socket.create_connection(("127.0.0.1", 9))
        return super().read(source)


class Caching(Noise):
    """Writes into the user's folder."""

    def read(self, source: Source) -> ImageData:
        if source.root:
            (source.root / "cache").mkdir()
        return super().read(source)


class _Sorted:
    """Images that come in their own order."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return _images(30)[np.sort(index)]


class Sorting(Noise):
    """Gives images in their own order, not the one asked for."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(Split(_Sorted(), data.train.labels), data.test, data.classes)


class Shuffled(Noise):
    """Shuffles from the global state."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        order = np.random.permutation(30)
        return ImageData(Split(_images(30)[order], data.train.labels[order]), data.test, data.classes)


class Greedy(Noise):
    """Takes any folder."""

    @classmethod
    def takes(cls, paths: Sequence[Path]) -> bool:
        return paths[0].is_dir()


class Twins(Noise):
    """Two classes of one name."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(data.train, data.test, ("same",) * len(data.classes))


class Spelt(Noise):
    """A word for its classes, a letter each."""

    def read(self, source: Source) -> ImageData:
        data = super().read(source)
        return ImageData(data.train, data.test, "abcdefghij"[: len(data.classes)])  # type: ignore[arg-type]


BROKEN: list[Broken] = [
    ("images-and-labels-are-usable", Twins(), "classes 0 and 1 are both called 'same'"),
    ("images-and-labels-are-usable", Spelt(), "the classes are 'abc"),
    ("takes-nothing-that-it-cannot-browse", Greedy(), "it takes an empty folder"),
    ("says-what-is-missing", Needy(), "FileNotFoundError"),
    ("says-what-is-missing", Chatty(), "an error of several lines"),
    ("fetches-nothing-unasked", Fetching(), "it opened a connection"),
    ("fetches-nothing-unasked", Caching(), "it wrote cache"),
    ("images-and-labels-are-usable", Floats(), "training images are float64 in"),
    ("images-and-labels-are-usable", OneClassShort(), "training labels are int64 in 0..2"),
    ("every-class-has-training-examples", OneClassMore(), "none for unicorn"),
    ("images-are-picked-by-index", Sorting(), "another order gives other images"),
    ("reads-the-same-every-time", Shuffled(), "the second read differs from the first"),
]


def test_a_sound_data_set_passes() -> None:
    check_dataset(Noise)


@pytest.mark.parametrize(("check", "dataset", "found"), BROKEN)
def test_a_broken_data_set_is_found(check: str, dataset: Any, found: str) -> None:
    expect_fault("dataset", check, dataset, found)


def test_every_check_finds_something() -> None:
    expect_complete("dataset", Noise(), [*BROKEN, *((name, None, "") for name in COMPONENT_CHECKS)])
