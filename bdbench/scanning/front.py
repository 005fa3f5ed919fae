"""A scan from beginning to end: what ``bdbench scan`` and ``bdbench.scan`` call."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells import environment
from bdbench.components.configs import labels as labels_of
from bdbench.components.configs import spec
from bdbench.components.defenses import Detector
from bdbench.components.interfaces import Architecture
from bdbench.errors import BdbenchError, unknown
from bdbench.experiment import Hooks, checked_seed
from bdbench.host import machine
from bdbench.images.listing import Listing
from bdbench.networks import training
from bdbench.progress import Progress, Silent
from bdbench.registry.plugins import installed
from bdbench.scanning import detecting, files, foresight, given, groups, reading, telling, verdict
from bdbench.scanning.foresight import Foresight
from bdbench.scanning.laboratory import Laboratory
from bdbench.scanning.outcome import Scan
from bdbench.scanning.reading import Read
from bdbench.seeds import Streams
from bdbench.storage.files import check_outside
from bdbench.storage.store import STAGES, check_writable

__all__ = ["Plan", "Prepared", "Scan", "prepare", "scan"]

PLAN_SCHEMA = "bdbench-scan-plan-1"
Source = str | Path | Sequence[str | Path] | Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to scan; the fields are the options of ``bdbench scan``."""

    defenses: Sequence[str | Detector] = ("datamodel",)
    model: str | Architecture = "convnet"
    seconds: float | None = None
    subset: int | None = None
    size: int | None = None
    strict: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises BdbenchError for values of another type or out of range."""
        if isinstance(self.defenses, str):
            object.__setattr__(self, "defenses", (self.defenses,))
        if not self.defenses:
            raise BdbenchError("there are no defenses: expected at least one detector")
        whole = numbers.Integral
        for name, low, kind in (("seconds", 0, numbers.Real), ("subset", 1, whole), ("size", 7, whole)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, kind) and float(value) > low):
                what = "an integer" if kind is whole else "a number"
                raise BdbenchError(f"{name}={value!r} is not allowed: expected {what} of more than {low}")


@dataclass
class Prepared:
    """A set that is read and not yet scanned. foresight: what it will take, None where there is nothing to compare."""

    plan: Plan
    detectors: list[Detector]
    read: Read
    source: str
    given: list[str]
    data_root: str | None
    laboratory: Laboratory | None
    foresight: Foresight | None
    seconds: dict[str, float] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """What was read and what it will take, for a person."""
        yield from telling.lines(self.read)
        if self.foresight is not None:
            yield from self.foresight.lines()

    def to_dict(self) -> dict[str, Any]:
        """The same for programs; ``data`` and ``settings`` are as in scan.json."""
        return {
            "schema": PLAN_SCHEMA,
            "data": files.data(self.read, self.source, self.given),
            "estimate": None if self.foresight is None else self.foresight.to_dict(),
            "settings": self._settings(),
        }

    def run(self) -> Scan:
        """Let the detectors at it. What was done before is found again.

        Raises BdbenchError if all of them fail for something that the user can mend.
        """
        said = []
        if self.laboratory is not None:
            names = labels_of([one.config() for one in self.detectors])
            for one, name in zip(self.detectors, names, strict=True):
                said.append(detecting.listen(self.laboratory, one))
                self.seconds[name] = said[-1].seconds
            if all(one.mendable for one in said):
                raise BdbenchError(str(said[0].error))
        judged = verdict.judge(self.read, said)
        first = verdict.ranking(said)
        scores = np.zeros(len(self.read.labels)) if first is None else first.scores
        looked = []
        if self.laboratory is not None:
            with self._timed("look at what was marked"):
                looked = groups.look(self.read, self.laboratory, judged.flagged, scores)
        return Scan(
            judged,
            said,
            looked,
            self.read,
            self.source,
            self.given,
            self._settings(),
            self._environment(),
            self.seconds,
            environment.peak_memory_mb(),
            self.foresight,
        )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def _settings(self) -> dict[str, Any]:
        plan, model = self.plan, installed().component("model", self.plan.model)
        names = ("seconds", "subset", "size", "strict", "seed")
        return {
            "model": spec(model.config()),
            "data_root": self.data_root,
            **{name: getattr(plan, name) for name in names},
        }

    def _environment(self) -> dict[str, Any]:
        model = installed().component("model", self.plan.model)
        device = training.pick_device(self.plan.device)
        versions = Hooks().versions(model, *self.detectors)
        return environment.describe(device, machine.precision("auto", device), versions)


def prepare(
    source: Source,
    plan: Plan,
    folder: Path,
    *,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Read what is given and say what a scan of it will take; ``folder`` is where stage results go.

    Raises BdbenchError for whatever can be known before work, memory that does not suffice among it.
    """
    progress = progress or Silent()
    machine.use_threads(plan.threads)
    device, streams = training.pick_device(plan.device), Streams(checked_seed(plan.seed))
    detectors = detecting.chosen(plan.defenses, plan.seconds)
    architecture = installed().component("model", plan.model)
    start = time.perf_counter()
    with progress.section():
        advance = progress.track(1, "look at what is there")
        listing = _listing(source, labels, classes, data_root, download)
        advance(1)
        found = reading.read(
            listing,
            size=plan.size,
            subset=plan.subset,
            strict=plan.strict,
            streams=streams,
            track=progress.track,
            fits=functools.partial(foresight.check_sooner, detectors),
        )
    made = Prepared(
        plan=plan,
        detectors=detectors,
        read=found,
        source=" ".join(_paths(source)) or type(source).__name__,
        given=[str(Path(path).absolute()) if Path(path).exists() else path for path in _paths(source)],
        data_root=None if data_root is None else str(Path(data_root).absolute()),
        laboratory=None,
        foresight=None,
        seconds={"read": time.perf_counter() - start},
    )
    if len(found.classes) < 2:
        return made
    made.laboratory = Laboratory.of(found, architecture, streams, device, folder, progress)
    foresight.check_fits(made.laboratory, detectors)
    with progress.section():
        made.foresight = foresight.foresee(made.laboratory, detectors, device, progress)
    return made


def scan(
    source: Source,
    labels: Any = None,
    *,
    classes: Sequence[str] | None = None,
    report: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Scan:
    """Is a set of images poisoned?

    source: a path or several, the name of a data set, images with ``labels`` (or a pair of both), a Dataset of
    torchvision or Hugging Face, or a DataFrame of images or paths and labels; images are uint8 or floats in 0..1,
    (n, H, W) or (n, H, W, 1 or 3). classes: the names of the labels, or their order where labels are names; report:
    the folder for what ``bdbench scan`` leaves, and for what it goes on from if it is broken off (None: nothing is
    left); options: those of ``Plan``. Raises BdbenchError for what the caller can mend.
    """
    known = [f.name for f in dataclasses.fields(Plan)]
    if strange := sorted(options.keys() - known):
        raise unknown("option", strange[0], known)
    plan = Plan(**options)
    if report is not None:
        check_report(Path(report), source)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) if report is None else Path(report) / STAGES
        if report is not None:
            files.tidy(Path(report))
        made = prepare(
            source,
            plan,
            folder,
            labels=labels,
            classes=classes,
            data_root=data_root,
            download=download,
            progress=progress,
        ).run()
        if report is not None:
            files.write(Path(report), made)
        return made


def check_report(report: Path, source: Source) -> None:
    """Raise BdbenchError for a report in a folder that is scanned, which the next scan would read, for a place that
    cannot be written, and for one with lists that a person edited.
    """
    for path in map(Path, _paths(source)):
        if path.is_dir():
            check_outside(report, path, "that is scanned")
    check_writable(report)
    files.check_unedited(report)


def _listing(
    source: Source, labels: Any, classes: Sequence[str] | None, data_root: str | Path | None, download: bool
) -> Listing:
    if labels is None and (paths := _paths(source)):
        return given.of_paths(paths, data_root, download)
    return given.of_object(source, labels, classes)


def _paths(source: Source) -> list[str]:
    """The paths, or the name of a data set, that are given; none if something else is."""
    listed = [source] if isinstance(source, str | Path) else source
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str | Path) for one in listed):
        return []
    return [str(one) for one in listed]
