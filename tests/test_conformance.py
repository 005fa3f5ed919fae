"""What bdbench itself registers keeps the contracts that it asks of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bdbench.registry.plugins import installed
from bdbench.testing import Fault, check_dataset, check_defense
from bdbench.testing.cases import cases_of
from bdbench_datasets.imagefolder import ImageFolder
from bdbench_datasets.npz import Npz
from tests.conftest import TINY_DATAMODEL

# What takes long with its defaults, in a form that takes the same way in fewer steps.
SMALL = [
    TINY_DATAMODEL,
    "anp:steps=5",
    "asset:steps=3,inner_steps=10",
    "badexpert:steps=6,patience=1",
    "bti-dbf:mask_steps=5,steps=3,width=4",
    "cognitive-distillation:steps=5,oracle=true",
    "color:particles=3,rounds=2,examples=40,epochs=1",
    "confusion-training:steps=2",
    "d-br:turns=2,spread=8",
    "d-st:contrast=2,spread=8",
    "dbd:pretraining=2",
    "fct:spread=8",
    "feature-re:warm_up=1,passes=1,width=2",
    "fine-pruning:epochs=2",
    "fine-tuning:epochs=3",
    "frequency:steps=2,batch=4,passes=0",
    "ft-sam:epochs=2",
    "hidden-trigger:steps=5,lr=1",
    "i-bau:rounds=1,steps=2",
    "input-aware:mask_epochs=1,width=2",
    "ispl:subsets=3,passes=1,rounds=2",
    "label-consistent:steps=5,inner_steps=1",
    "combat:epochs=1,width=2",
    "lira:epochs=1,tune_epochs=1,width=2",
    "low-frequency:passes=2,examples=10",
    "meta-sift:sifters=2,steps=3",
    "mm-bd:steps=5,images=4",
    "mspc:rounds=2,steps=2",
    "nab:pretraining=2",
    "nad:epochs=2,teacher=1",
    # Of the samples' 200 images its own rate is none.
    "narcissus:rate=0.05,rounds=10",
    "neural-cleanse:rounds=4",
    "rnp:steps=5,recoveries=5",
    "sleeper-agent:steps=4,retrainings=1",
    "ssba:steps=4,width=2",
    "trojan-patch:steps=5",
]


# Not the two that need what a plain machine lacks: a record of BackdoorBench, and ART.
@pytest.mark.bdbench_plugin(
    "baselines", "datamodel", "datasets", "inspection", "mitigations", "models", "triggers", using=SMALL
)
def test_our_own_plugins(bdbench_check: Callable[[], None], request: pytest.FixtureRequest) -> None:
    # Its checks can only be made where the package is that it asks for.
    if "[defense-cleanlab-" in request.node.name:
        pytest.importorskip("cleanlab")
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
    names = np.array(["0", "1", "2"])
    np.savez(
        tmp_path / "empty-class.npz", x_train=images, y_train=gap, x_test=images[:4], y_test=gap[:4], classes=names
    )
    check_dataset(Npz(path="set.npz"), tmp_path)
    with pytest.raises(Fault, match="none for 1"):
        check_dataset(Npz(path="empty-class.npz"), tmp_path)
    for part in ("train", "test"):
        for i, image in enumerate(images):
            path = tmp_path / part / str(labels[i]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    check_dataset(ImageFolder, tmp_path)
