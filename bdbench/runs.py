"""A finished run opened again: everything it was made of, rebuilt from its record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bdbench import record, training
from bdbench.cell import Cell
from bdbench.data import ImageData, PoisonedData, TrainingView
from bdbench.errors import BdbenchError
from bdbench.interfaces import Attack, Defense, Source, Tools
from bdbench.plugins import installed
from bdbench.progress import Progress, Silent
from bdbench.record import Record
from bdbench.store import STAGES, Store
from bdbench.training import Victim


@dataclass(frozen=True)
class Reopened:
    """A run and what it was made of. Reads stage results where they still are, else computes them again.

    record: what was measured; scores: float64 (n,), or None for a mitigation or a record without its arrays;
    kept: bool (n,), likewise.
    """

    record: Record
    scores: np.ndarray | None
    kept: np.ndarray | None
    defense: Defense
    _cell: Cell

    @property
    def attack(self) -> Attack:
        """The attack, with its parameters."""
        return self._cell.attack

    @property
    def clean(self) -> ImageData:
        """The data set before it was poisoned, its subset taken."""
        return self._cell.images

    @property
    def poisoned(self) -> PoisonedData:
        """The poisoned training set, with the truth."""
        return self._cell.poisoned

    @property
    def view(self) -> TrainingView:
        """The poisoned training set as defenses see it."""
        return self._cell.view

    @property
    def places(self) -> np.ndarray:
        """The place of each poisoned example in the whole clean training set, int64 (n,)."""
        chosen, index = self.clean.chosen, self.poisoned.index
        places = np.arange(self.whole) if chosen is None else np.flatnonzero(chosen)
        return places if index is None else places[index]

    @property
    def whole(self) -> int:
        """How many examples the clean training set has, without a subset taken."""
        chosen = self.clean.chosen
        return len(self.clean.train.labels if chosen is None else chosen)

    def triggered(self, images: np.ndarray) -> np.ndarray:
        """The run's own test-time trigger on uint8 (n, H, W, C)."""
        return self._cell.attack.trigger(images, self._cell.streams.child("attack"))

    def victim(self) -> Victim:
        """The model trained on the poisoned set; trained again if its stage result is gone."""
        if not hasattr(self._cell, "victim"):
            self._cell.train_victim()
        return self._cell.victim

    def tools(self) -> Tools:
        """The tools the defense had: pieces it saved are found again."""
        self.victim()
        return self._cell.tools(self.defense)


def reopen(
    run: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Reopened:
    """Open the run in a folder, or the record in a file, again.

    Records name no folder of the machine they were made on, so that sets read from files need ``data_root``.
    PyTorch is set to the run's number of threads, as far as this machine has that many: with another number of them,
    as on another device, the run's stage results are not found.
    Raises BdbenchError if the record is not valid or the data found here differ from those of the run.
    """
    path = Path(run)
    found = record.read(path)
    folder = path if path.is_dir() else path.parent
    config = found.config
    torch.set_num_threads(min(found.environment["threads"], os.cpu_count() or 1))
    cell = Cell(
        dataset=installed().component("dataset", config["dataset"]),
        model=installed().component("model", config["model"]),
        attack=installed().component("attack", config["attack"]),
        seed=found.seed,
        budget=config["budget"],
        device=training.pick_device(device),
        out=folder.parent,
        source=Source(Path(data_root) if data_root is not None else None),
        store=Store(folder.parent / STAGES),
        progress=progress or Silent(),
    )
    cell.open()
    if cell.data_config() != {k: v for k, v in config["data"].items() if k != "poisons"}:
        raise BdbenchError(
            f"the data of {path} are not those found here: fingerprint {cell.data_config()['fingerprint']}, "
            f"expected {config['data']['fingerprint']}"
        )
    arrays = _arrays(folder) if path.is_dir() else {}
    defense = installed().component("defense", config["defense"])
    return Reopened(found, arrays.get("scores"), arrays.get("kept"), defense, cell)


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    file = folder / "scores.npz"
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
