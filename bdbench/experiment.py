"""Running cells: what ``bdbench run``, ``bdbench.run`` and the engines call, and finished runs opened again."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import bdbench
from bdbench.cells import beside
from bdbench.cells.bench import Spread
from bdbench.cells.cell import Cell
from bdbench.cells.runs import Reopened
from bdbench.cells.scene import Setting, read_images
from bdbench.components import guard, params
from bdbench.components.attacks import Attack
from bdbench.components.configs import check_budget, check_reserve
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture, Component, Dataset, Measured, Source
from bdbench.errors import BdbenchError
from bdbench.host import machine, timeout
from bdbench.images.data import ImageData
from bdbench.networks import training
from bdbench.progress import Progress, Silent
from bdbench.registry.plugins import installed
from bdbench.storage import record
from bdbench.storage.record import Record
from bdbench.storage.store import STAGES, Store, sweep


def cell(
    *,
    attack: str | Attack | Sequence[str | Attack] = "blend",
    dataset: str | Dataset = "digits",
    model: str | Architecture = "convnet",
    seed: int = 0,
    budget: float | Literal["auto"] = 0.1,
    reserve: float = 0.05,
    floor: bool = False,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    download: bool = False,
    fresh: bool = False,
    cell_seconds: float | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Cell:
    """A poisoned set and a victim that are to be; the arguments are those of ``bdbench run``. Raises BdbenchError.

    attack: of several, a cascade of them on one set; cell_seconds: how long what the defenses share may take, and then
    each of them (in the main thread; none: as long as it takes).
    """
    cell_seconds = timeout.checked(cell_seconds, "cell_seconds")
    machine.use_threads(threads)
    device = training.pick_device(device)
    setting = Setting(
        dataset=installed().component("dataset", dataset),
        model=installed().component("model", model),
        attack=installed().component("attack", attack),
        seed=checked_seed(seed),
        budget=check_budget(budget),
        reserve=check_reserve(reserve),
        floor=floor,
        device=device,
        precision=machine.precision(precision, device),
        out=Path(out),
        source=_source(data_root, download),
        store=Store(Path(out) / STAGES, fresh),
        progress=progress or Silent(),
        spread=spread,
    )
    sweep(Path(out))
    machine.keep_compiled(Path(out))
    return Cell(setting, Hooks(), cell_seconds)


def run_each(*, defenses: Sequence[str | Defense] = ("datamodel",), **options: Any) -> Iterator[Record | Exception]:
    """Run several defenses on one poisoned set and one victim: of each in turn its record, or its own error.

    The options are those of ``cell``. Raises BdbenchError for what the caller can mend in what they share.
    """
    if not defenses:
        raise BdbenchError("no defense is given: expected at least one")
    yield from cell(**options).run([installed().component("defense", d) for d in defenses])


def run_all(**options: Any) -> list[Record]:
    """What ``run_each`` yields, if nothing fails; its options. Raises the error of the first defense that does."""
    records = []
    for outcome in run_each(**options):
        if isinstance(outcome, Exception):
            raise outcome
        records.append(outcome)
    return records


def run(
    attack: str | Attack | Sequence[str | Attack] = "blend", defense: str | Defense = "datamodel", **options: Any
) -> Record:
    """Run one cell and return its record; the options are those of ``run_all``."""
    return run_all(attack=attack, defenses=[defense], **options)[0]


def load(
    dataset: str | Dataset,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    reserve: float = 0.05,
    progress: Progress | None = None,
) -> ImageData:
    """A data set as a run with ``seed`` has it before the attack: decoded and checked, its subset taken, shuffled.

    Raises BdbenchError if it is not there or not fit.
    """
    found = installed().component("dataset", dataset)
    return read_images(
        found, _source(data_root, download), checked_seed(seed), check_reserve(reserve), progress or Silent()
    )


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
    Raises BdbenchError if the record is not valid, of other definitions, if what is made here of its data differs
    from what the run had, or if the scores.npz beside it is another run's.
    """
    path = Path(run)
    found = record.read(path)
    if found.definitions != record.DEFINITIONS:
        raise BdbenchError(
            f"{path} is of version {found.definitions} of the definitions: expected version {record.DEFINITIONS}, "
            "since its data were prepared otherwise; run its cell again"
        )
    folder = path if path.is_dir() else path.parent
    config = found.config
    machine.use_threads(min(found.environment["threads"], os.cpu_count() or 1))
    setting = Setting(
        dataset=installed().component("dataset", config["dataset"]),
        model=installed().component("model", config["model"]),
        attack=installed().component("attack", config["attack"]),
        seed=found.seed,
        budget=config["budget"] if config["budget"] is not None else 0.1,
        reserve=config["reserve"],
        device=training.pick_device(device),
        precision=found.environment["precision"],
        out=folder.parent,
        source=_source(data_root, download=False),
        store=Store(folder.parent / STAGES, finished=True),
        progress=progress or Silent(),
    )
    opened = Cell(setting)
    _check_same(path, opened.scene.facts, config["data"])
    arrays = beside.read(folder, found, opened.scene) if path.is_dir() else {}
    return Reopened(found, arrays, installed().component("defense", config["defense"]), opened)


def _check_same(path: Path, here: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    what = {"fingerprint": "data", "poisoned": "poisoned set", "challenge": "triggered test images"}
    for key, name in what.items():
        if here[key] != then[key]:
            raise BdbenchError(
                f"what is made here is not the {name} of {path}: fingerprint {here[key]}, expected {then[key]}"
            )


def checked_seed(seed: Any) -> int:
    """A seed as an integer. Raises BdbenchError for anything but one of 0 to 2^63 - 1: names of folders hold it."""
    try:
        whole = -1 if isinstance(seed, bool | np.bool_) else operator.index(seed)
    except TypeError:
        whole = -1
    if not 0 <= whole < 2**63:
        expected = "an integer >= 0" if whole < 0 else "less than 2^63"
        raise BdbenchError(f"seed={str(seed)[:40]} is not allowed: expected {expected}")
    return whole


def _source(data_root: str | Path | None, download: bool) -> Source:
    root = Path(data_root) if data_root is not None else None
    if root is not None and not root.is_dir():
        what = "is no folder" if root.exists() else "is not there"
        raise BdbenchError(f"data root {str(root)!r} {what}: expected a folder")
    return Source(root, download)


def _untouchable(measured: Measured) -> Measured:
    """The same numbers in arrays and dicts of its own: a view's base can be written to, whatever the view says."""
    arrays = (None if array is None else guard.read_only(array.copy()) for array in (measured.scores, measured.kept))
    scores, kept = arrays
    before, after = copy.deepcopy((dict(measured.before), dict(measured.after)))
    return Measured(guard.read_only(measured.roles.copy()), scores, kept, before, after)


class Hooks:
    """The plugins of this environment as listeners of a cell."""

    def started(self, run: str, config: dict[str, Any]) -> None:
        """Tell that a cell begins."""
        installed().call("bdbench_run_started", run_id=run, config=config)

    def stage_finished(self, run: str, stage: str, seconds: float, reused: bool) -> None:
        """Tell that a stage is done."""
        installed().call("bdbench_stage_finished", run_id=run, stage=stage, seconds=seconds, reused=reused)

    def finished(self, run: str, record: dict[str, Any]) -> None:
        """Tell that a record is on disk."""
        installed().call("bdbench_run_finished", run_id=run, record=record)

    def extra(self, measured: Measured) -> dict[str, float | None]:
        """The numbers of metric plugins."""
        # Each is handed its own: what one writes into it no other reads.
        return {r.name: installed().compute(r, _untouchable(measured)) for r in installed().registered("metric")}

    def versions(self, *components: Component) -> dict[str, str]:
        """The version of bdbench and of every distribution that a component came from."""
        found = {"bdbench": bdbench.__version__}
        for part in params.whole(*components):
            for registration in installed().registered(part.kind):
                if registration.component is type(part):
                    found[registration.plugin.distribution] = registration.plugin.version
        return found
