"""What bdbench itself registers keeps the contracts that it asks of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bdbench.plugins import installed
from bdbench.testing import Fault, check_dataset, check_defense
from bdbench.testing.cases import cases_of
from bdbench_datasets.imagefolder import ImageFolder
from bdbench_datasets.npz import Npz
from tests.conftest import TINY_DATAMODEL

# What takes long with its defaults, in a form that takes the same way in fewer steps.
SMALL = [
    TINY_DATAMODEL,
    "neural-cleanse:steps=60",
    "fine-tuning:epochs=3",
    "d-br:turns=2,spread=8",
    "d-st:contrast=2,spread=8",
    "dbd:pretraining=2",
    "nab:pretraining=2",
    "color:particles=3,rounds=2,examples=40,epochs=1",
    "hidden-trigger:steps=5,lr=1",
    "input-aware:mask_epochs=1,width=2",
    "label-consistent:steps=5",
    "lira:epochs=1,tune_epochs=1,width=2",
    "low-frequency:passes=2,examples=10",
    # Of the samples' 200 images its own rate is none.
    "narcissus:rate=0.05,rounds=10",
    "sleeper-agent:steps=4,retrainings=1",
    "ssba:steps=4,width=2",
    "trojan-patch:steps=20",
]


# Not the two that need what a plain machine lacks: a record of BackdoorBench, and ART.
@pytest.mark.bdbench_plugin(
    "baselines", "datamodel", "datasets", "inspection", "mitigations", "models", "triggers", using=SMALL
)
def test_our_own_plugins(bdbench_check: Callable[[], None]) -> None:
    bdbench_check()


def test_the_bridge_keeps_to_what_is_asked_of_a_plugin() -> None:
    plugin = next(p for p in installed().found if p.name == "backdoorbench")
    for case in cases_of("plugin", plugin):
        case.run()


def test_arts_detectors() -> None:
    pytest.importorskip("art")
    check_defense(installed().component("defense", "art:detector=spectral"))


def test_files_that_are_there(tmp_path: Path) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3)).astype(np.uint8)
    labels = np.arange(12) % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    gap = labels * 2
    np.savez(tmp_path / "empty-class.npz", x_train=images, y_train=gap, x_test=images[:4], y_test=gap[:4])
    check_dataset(Npz(path="set.npz"), tmp_path)
    with pytest.raises(Fault, match="none for 1"):
        check_dataset(Npz(path="empty-class.npz"), tmp_path)
    for part in ("train", "test"):
        for i, image in enumerate(images):
            path = tmp_path / part / str(labels[i]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    check_dataset(ImageFolder, tmp_path)
