"""What the tests share: small synthetic sets and a cell that runs in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import ImageData, Split, record

# One cell of the smallest size at which every stage does its work.
TINY: dict[str, Any] = {
    "attack": "badnets:rate=0.05",
    "dataset": "digits:subset=300",
    "model": "convnet:width=4,epochs=2",
    "device": "cpu",
}
TINY_DATAMODEL = "datamodel:models=12,chunk=4,epochs=2,hidden=8,starts=3"


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """Arguments of ``bdbench.run`` for a cell that takes about a second."""
    return {**TINY, "out": tmp_path / "runs"}


@pytest.fixture
def split() -> Split:
    """40 grey images of 8 x 8 with labels 0..3 in turn."""
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 4)


def in_order(data: ImageData) -> ImageData:
    """A prepared data set with the training set back in its own order."""
    order = np.argsort(data.train.places)
    images = np.asarray(data.train.images)[order]
    return ImageData(Split(images, data.train.labels[order]), data.test, data.classes)


def make_board(folder: Path) -> Path:
    """A leaderboard of made-up numbers: blend and the control, against three defenses, on seeds 0 to 2.

    The better a defense's AUROC, the less of the attack it leaves: random, low-loss, spectral, in this order.
    """
    from bdbench.plugins import installed

    digits = Path(__file__).parent.parent / "leaderboards" / "digits" / "records"
    data = json.loads(min(digits.glob("*-blend-spectral-s0-*.json")).read_text())
    data["config"]["attack"]["rate"] = 0.05
    (folder / "records").mkdir(parents=True)
    for attack in (data["config"]["attack"], {"name": "none"}):
        for level, defense in enumerate(["random", "low-loss", "spectral"]):
            for seed in range(3):
                made = json.loads(json.dumps(data))
                made |= {"seed": seed, "id": f"{attack['name']}-{defense}-{seed}"}
                made["config"] |= {"attack": attack, "defense": installed().component("defense", defense).config()}
                made["detection"]["auroc"] = 0.5 + 0.2 * level + 0.01 * seed
                made["after"]["attack_success_rate"] = 0.9 - 0.4 * level + 0.01 * seed
                if attack["name"] == "none":
                    for part in ("before", "after"):
                        made[part] |= {"attack_success_rate": None, "robust_accuracy": None}
                    made["detection"] |= dict.fromkeys(set(made["detection"]) - {"budget", "fpr_at_budget"})
                    made["derived"]["defense_effectiveness_rating"] = None
                (folder / "records" / f"{made['id']}.json").write_text(record.dumps(made))
    return folder
