"""Running cells: what ``bdbench run``, ``bdbench.run`` and the engines call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bdbench import training
from bdbench.cell import Cell, read_images
from bdbench.data import ImageData
from bdbench.errors import BdbenchError
from bdbench.interfaces import Architecture, Attack, Dataset, Defense, Source
from bdbench.plugins import installed
from bdbench.progress import Progress, Silent
from bdbench.record import Record, check_budget
from bdbench.store import STAGES, Store, sweep
from bdbench.tools import Spread


def run_each(
    *,
    attack: str | Attack = "blend",
    defenses: Sequence[str | Defense] = ("datamodel",),
    dataset: str | Dataset = "digits",
    model: str | Architecture = "convnet",
    seed: int = 0,
    budget: float = 0.1,
    device: str = "auto",
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    download: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Iterator[Record | Exception]:
    """Run several defenses on one poisoned set and one victim: of each in turn its record, or its own error.

    The arguments are those of ``bdbench run``, and an engine's way to spread a defense's work. Raises BdbenchError for
    what the caller can mend in the rest.
    """
    budget = check_budget(budget)
    if seed < 0:
        raise BdbenchError(f"seed={seed} is not allowed: expected an integer >= 0")
    if not defenses:
        raise BdbenchError("no defense is given: expected at least one")
    root = Path(data_root) if data_root is not None else None
    if root is not None and not root.is_dir():
        raise BdbenchError(f"data root {str(root)!r} is not there: expected a folder")
    cell = Cell(
        dataset=installed().component("dataset", dataset),
        model=installed().component("model", model),
        attack=installed().component("attack", attack),
        seed=seed,
        budget=budget,
        device=training.pick_device(device),
        out=Path(out),
        source=Source(root, download),
        store=Store(Path(out) / STAGES, fresh),
        progress=progress or Silent(),
        spread=spread,
    )
    sweep(Path(out))
    yield from cell.run([installed().component("defense", d) for d in defenses])


def run_all(**options: Any) -> list[Record]:
    """What ``run_each`` yields, if nothing fails; its options. Raises the error of the first defense that does."""
    records = []
    for outcome in run_each(**options):
        if isinstance(outcome, Exception):
            raise outcome
        records.append(outcome)
    return records


def run(attack: str | Attack = "blend", defense: str | Defense = "datamodel", **options: Any) -> Record:
    """Run one cell and return its record; the options are those of ``run_all``."""
    return run_all(attack=attack, defenses=[defense], **options)[0]


def load(
    dataset: str | Dataset,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageData:
    """A data set, decoded and checked; its subset, if it has one, is that of a run with ``seed``.

    Raises BdbenchError if it is not there or not fit.
    """
    source = Source(Path(data_root) if data_root is not None else None, download)
    return read_images(installed().component("dataset", dataset), source, seed, progress or Silent())
