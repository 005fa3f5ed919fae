"""What the tests of scans share: a small set with a stamped patch, on disk and as arrays, and detectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdbench import Detector, Tools, TrainingView, param
from bdbench.registry.plugins import Plugin, Registration, installed

MODEL = "convnet:width=4,epochs=1"
CLASSES = ("cat", "dog", "ship")
EACH, STAMPED = 20, 6


@dataclass(frozen=True, kw_only=True)
class Patch(Detector):
    """Flags images whose last corner is white, and says how likely that is in a clean set."""

    name = "patch"
    assumption = "The trigger is a white corner."
    chance: float = param(0.001, help="the p-value that it gives where it flags any")
    seconds: float | None = param(None, help="does not matter")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        white = view.images[:, -1, -1].mean(1) > 200
        tools.count_models(5 if self.seconds else 10)
        tools.conclude(self.chance if white.any() else 0.7, flagged=white, evidence={0: 1.0, 1: 0.5})
        return white + 0.1 * view.images[:, 0, 0].mean(1) / 255


@dataclass(frozen=True, kw_only=True)
class Ranks(Detector):
    """Scores without a rule."""

    name = "ranks"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return view.images.mean((1, 2, 3)).astype(float)


@dataclass(frozen=True, kw_only=True)
class Breaks(Detector):
    """Fails."""

    name = "breaks"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        raise RuntimeError("it broke")


@pytest.fixture(autouse=True)
def detectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The three above by their names."""
    for one in (Patch, Ranks, Breaks):
        registered = [Registration(one.name, one, Plugin("made", "made", "1"))]
        monkeypatch.setitem(installed()._all("defense"), one.name, registered)
    yield


def arrays(stamped: int = STAMPED) -> tuple[np.ndarray, np.ndarray]:
    """60 images of 16 x 16 x 3 of three classes, the first of class 0 with a white corner; labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), EACH)
    images = rng.integers(0, 120, (len(labels), 16, 16, 3)).astype(np.uint8)
    images[np.arange(len(labels)), :, :, labels] += 60
    images[:stamped, -4:, -4:] = 255
    return images, labels


def write_folder(root: Path, stamped: int = STAMPED, part: str = "") -> Path:
    """The same as PNG files in folders of classes."""
    images, labels = arrays(stamped)
    for place, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / part / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{place:03}.png")
    return root


@pytest.fixture
def quick() -> dict[str, Any]:
    """Options of ``bdbench.scan`` that make it quick."""
    return {"model": MODEL, "device": "cpu"}
