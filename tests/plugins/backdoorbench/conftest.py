"""A small data set, and what stands in for the ones that BackdoorBench knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bdbench
from bdbench import Split
from bdbench.cli import cli
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.commands import add
from bdbench_backdoorbench.known import CLEAN_SETS
from tests.plugins.backdoorbench.files import write_record


@dataclass
class Clean:
    """A small data set as npz, its arrays, and what a badnet of target 0 made of some of them."""

    file: Path
    train: Split
    test: Split
    shape: tuple[int, int, int]

    def changed(self, split: Split, places: list[int], labels: list[int]) -> dict[int, tuple[np.ndarray, int, int]]:
        images = np.array(split.images)
        images[:, -2:, -2:] = 255
        return {i: (images[i], y, int(split.labels[i])) for i, y in zip(places, labels, strict=True)}

    def badnet(self, folder: Path, poisons: tuple[int, ...] = (7, 21, 38), **options: Any) -> Path:
        others = np.flatnonzero(self.test.labels != 0).tolist()
        train = self.changed(self.train, list(poisons), [0] * len(poisons))
        test = self.changed(self.test, others, [0] * len(others))
        return self.write(folder, train, test, **options)

    def write(self, folder: Path, train: Any, test: Any, **options: Any) -> Path:
        sizes = (len(self.train.labels), len(self.test.labels))
        return write_record(folder, train, test, sizes=sizes, classes=4, shape=self.shape, **options)

    def run(self, out: Path, attack: str, **options: Any) -> bdbench.Record:
        cell = {"model": "preact-resnet18:epochs=1", "defense": "random", "device": "cpu", "out": out}
        return bdbench.run(attack=attack, dataset=f"npz:path={self.file}", **{**cell, **options})

    def poison(self, folder: Path) -> bdbench.PoisonedData:
        return BackdoorBenchRecord(record=str(folder)).poisoned_set(self.train, 4)


def make_clean(folder: Path, channels: int) -> Clean:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (64, 8, 8, channels)).astype(np.uint8)
    labels = np.arange(64) % 4
    file = folder / "clean.npz"
    np.savez(file, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return Clean(file, Split(images[:40], labels[:40]), Split(images[40:], labels[40:]), (8, 8, channels))


@pytest.fixture
def clean(tmp_path: Path) -> Clean:
    return make_clean(tmp_path, 3)


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """BackdoorBench's cifar10 and mnist are of 8 x 8 and four classes, so that victims train in a moment."""
    real = CLEAN_SETS["cifar10"]
    fake = type(real)("npz", 4, (8, 8, 3), real.mean, real.std)
    monkeypatch.setitem(CLEAN_SETS, "cifar10", fake)
    monkeypatch.setitem(CLEAN_SETS, "mnist", type(real)("grey", 4, (8, 8, 1), (0.5,), (0.5,)))


def invoke(*arguments: str) -> Any:
    add(cli)
    return CliRunner().invoke(cli, list(arguments))
