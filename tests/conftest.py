"""What the tests share: small synthetic sets and a cell that runs in a second."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import ImageData, Mitigation, Split, Tools, Victim

# A shell lets what it starts in the background ignore Ctrl-C, nohup a hang-up, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside others: a core is a process's own, and so it is for the programs that tests start. Before torch is loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}

# One cell of the smallest size at which every stage does its work.
TINY: dict[str, Any] = {
    "attack": "badnets:rate=0.05",
    "dataset": "digits:subset=300",
    "model": "convnet:width=4,epochs=2",
    "device": "cpu",
}
TINY_DATAMODEL = "datamodel:models=12,chunk=4,epochs=2,hidden=8,starts=3"


@dataclass(frozen=True, kw_only=True)
class Forget(Mitigation):
    """Trains afresh on the clean examples."""

    name = "forget"
    oracles = ("clean_set",)

    def repair(self, tools: Tools) -> Victim:
        clean = tools.oracle("clean_set")
        return tools.train(clean.images, clean.labels, "fresh")


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
