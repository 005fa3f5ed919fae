"""What the tests of ``bdbench inspect`` share: how it is asked, and detectors that say what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import bdbench
from bdbench import InputDetector, ModelDetector, State, Tools, Verdict
from bdbench.cli import cli
from bdbench.networks import checkpoint

# Of an older one no pickle is read, whatever is in it.
reads_pickles = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < checkpoint._SAFE_TORCH, reason="of this torch no pickle is read"
)
QUICK = ("neural-cleanse:rounds=150,batch=60", "mm-bd:images=4,steps=60")
VICTIM: dict[str, Any] = {"dataset": "digits:subset=600", "model": "convnet:width=4,epochs=15", "device": "cpu"}


@dataclass(frozen=True)
class Place:
    """What the tests share: a backdoored and a clean model, and clean images in folders of classes."""

    bad: Path
    good: Path
    clean: Path


def command(file: Path, *defenses: str, **options: Any) -> Result:
    words = [word for spec in defenses for word in ("--defense", spec)]
    for key, value in {"device": "cpu", **options}.items():
        name = key.replace("_", "-")
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return CliRunner().invoke(cli, ["inspect", str(file), *words])


def quickly(file: Path, **options: Any) -> bdbench.Inspection:
    return bdbench.inspect(file, **{"defenses": [Says()], "device": "cpu", **options})


@dataclass(frozen=True, kw_only=True)
class Says(ModelDetector):
    """Says what it is told to say."""

    name = "says"
    assumption = "None at all."
    targets: tuple[float, ...] = ()
    p: float | None = None

    def inspect(self, tools: Tools) -> Verdict:
        return Verdict(1.0, bool(self.targets), tuple(int(t) for t in self.targets), self.p)


@dataclass(frozen=True, kw_only=True)
class AlsoSays(Says):
    name = "also-says"


@dataclass(frozen=True, kw_only=True)
class ThirdSays(Says):
    name = "third-says"


@dataclass(frozen=True, kw_only=True)
class Breaks(ModelDetector):
    name = "breaks"

    def inspect(self, tools: Tools) -> Verdict:
        raise ValueError("it is broken\nin two lines")


@dataclass(frozen=True, kw_only=True)
class Told(ModelDetector):
    name = "told"
    oracles = ("target_labels",)

    def inspect(self, tools: Tools) -> Verdict:
        raise AssertionError("it is not asked")


@dataclass(frozen=True, kw_only=True)
class Bright(InputDetector):
    name = "bright"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return images.mean((1, 2, 3))


def state(place: Place) -> dict[str, torch.Tensor]:
    return load_file(place.good)
