"""A checkpoint as a model that can be asked: its network, its classes, the images it takes, and clean ones of them."""

from __future__ import annotations

import copy
import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells.bench import Bench
from bdbench.cells.tools import HarnessTools
from bdbench.components import guard
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture
from bdbench.display.words import counted
from bdbench.errors import BdbenchError, unknown
from bdbench.host import machine
from bdbench.images import data
from bdbench.images.data import Split
from bdbench.inspecting import images
from bdbench.inspecting.images import Clean, Form
from bdbench.inspecting.weights import fitted
from bdbench.networks import checkpoint, training
from bdbench.networks.checkpoint import Checkpoint
from bdbench.networks.training import Victim
from bdbench.progress import Progress
from bdbench.registry.plugins import installed
from bdbench.seeds import Streams
from bdbench.storage.files import check_regular, reading
from bdbench.storage.store import Store

NORMALISATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}
"""Mean and deviation of pixels in 0..1 that models are trained with, by name: of each channel, or of all."""

# More clean images make detectors slow, and hardly better.
MOST_CLEAN = 1000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user says of the model; None: what its file says, or the default."""

    model: str | Architecture | None = None
    classes: str | Path | int | Sequence[str] | None = None
    clean: Path | None = None
    size: int | None = None
    channels: int | None = None
    normalise: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Subject:
    """The model under suspicion, and what there is to try it with.

    shape: of an image, (H, W, C); clean: the clean images as they were read, None without any; labels: int64 (n,), of
    these, by their folders or by the model itself.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    form: Form
    victim: Victim
    bench: Bench
    clean: Clean | None
    labels: np.ndarray
    seed: int

    def kept_in(self, store: Store) -> Subject:
        """The same, with what detectors save kept in ``store``."""
        return replace(self, bench=replace(self.bench, store=store))

    def tools(self, defense: Defense) -> HarnessTools:
        """What a defense is handed: a copy of the model, and the clean images if it declares that it needs some."""
        oracles: dict[Any, Any] = {}
        if "clean_set" in defense.told and self.clean is not None:
            oracles["clean_set"] = Split(self.clean.images, self.labels)
        own = self.bench.restore(self.victim.arrays(), "the checkpoint")
        return HarnessTools(defense.name, self.bench, Streams(self.seed), victim=own, oracles=oracles, examples=0)

    def why_not(self, defense: Defense) -> str | None:
        """Why a defense cannot be asked here, in a few words; None if it can."""
        other = [oracle for oracle in defense.told if oracle != "clean_set"]
        if other:
            return f"it has to be told {other[0]}, which nobody knows here"
        if "clean_set" in defense.told and self.clean is None:
            return "it needs clean images: expected --clean DIR"
        return None

    def normalised(self, name: str) -> Victim | None:
        """The model with one of NORMALISATIONS; None where that is for other channels."""
        mean, std = NORMALISATIONS[name]
        if len(mean) not in (1, self.shape[2]):
            return None
        other = copy.copy(self.victim)
        other.mean, other.std = _checked(mean, std, self.shape[2])
        return other

    @functools.cached_property
    def accuracy(self) -> float | None:
        """The share of the clean images that the model gives the label of their folder; None without such folders."""
        if self.clean is None or self.clean.labels is None:
            return None
        return float((self.victim.predict(self.clean.images) == self.clean.labels).mean())


def of(path: Path, asked: Asked, store: Store, progress: Progress) -> Subject:
    """The model in a file, and the clean images. Raises BdbenchError for what is not there, or does not fit."""
    read = checkpoint.read(path)
    told = read.told
    spec = asked.model if asked.model is not None else told.get("model")
    if spec is None:
        raise BdbenchError(f"{path} does not say of what architecture it is: expected --model, such as convnet")
    architecture = installed().component("model", spec)
    classes = _classes(path, asked, told)
    form = _form(asked, told)
    clean = None
    if asked.clean is not None:
        clean = images.read_clean(asked.clean, classes, form, MOST_CLEAN, asked.seed, progress.track)
    shape = _shape(form, clean, told)
    mean, std = _normalisation(asked, told, shape[2])
    bench = _bench(architecture, shape, len(classes), read, clean, asked, store, progress)
    with guard.call(architecture):
        network = bench.trainer.untrained(asked.seed)
        state = fitted(read, network, architecture, shape, len(classes))
        arrays = {f"state.{name}": tensor.numpy() for name, tensor in state.items()}
        victim = bench.restore({**arrays, "mean": mean, "std": std}, str(path))
        labels = np.empty(0, np.int64)
        if clean is not None:
            labels = victim.predict(clean.images) if clean.labels is None else clean.labels
            guard.freeze(clean)
    return Subject(read, architecture, classes, shape, form, victim, bench, clean, labels, asked.seed)


def _bench(
    architecture: Architecture,
    shape: tuple[int, int, int],
    classes: int,
    read: Checkpoint,
    clean: Clean | None,
    asked: Asked,
    store: Store,
    progress: Progress,
) -> Bench:
    arrays = [] if clean is None else [clean.images]
    with guard.call(architecture):
        return Bench.of(
            architecture,
            "",
            shape,
            classes,
            contents=data.fingerprint(np.frombuffer(read.digest.encode(), np.uint8), *arrays),
            seed=asked.seed,
            device=training.pick_device(asked.device),
            precision=machine.precision("float32", "cpu"),
            store=store,
            progress=progress,
        )


def _classes(path: Path, asked: Asked, told: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels: as the user says, the file, or the folders of clean images."""
    given = asked.classes
    if isinstance(given, int):
        names: Sequence[str] = [str(label) for label in range(given)]
    elif isinstance(given, str | Path):
        names = _listed(Path(given))
    elif given is not None:
        names = [str(name) for name in given]
    elif "classes" in told:
        names = told["classes"]
    else:
        names = images.class_folders(asked.clean) if asked.clean is not None else ()
    twice = [name for i, name in enumerate(names) if name in names[:i]] if len(set(names)) < len(names) else []
    if twice:
        raise BdbenchError(f"the class {twice[0]!r} is named twice: expected a name of its own for each")
    if len(names) < 2:
        what = (
            f"{counted(len(names), 'class')} named"
            if given is not None or names
            else f"{path} does not name its classes"
        )
        raise BdbenchError(
            f"{what}: expected --classes FILE, a name a line in the order of the labels, or their number"
        )
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _listed(file: Path) -> list[str]:
    try:
        check_regular(file)
    except FileNotFoundError:
        raise BdbenchError(
            f"no file of classes at {file}: expected a name a line in the order of the labels, or a number"
        ) from None
    with reading(file, "a list of classes"):
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _form(asked: Asked, told: Mapping[str, Any]) -> Form:
    shape = told.get("shape")
    channels = asked.channels if asked.channels is not None else shape[2] if shape else 3
    if channels not in (1, 3):
        raise BdbenchError(f"channels={channels} is not allowed: expected 1 or 3")
    size = asked.size
    if size is None and shape and shape[0] == shape[1]:
        size = shape[0]
    if size is not None and not 4 <= size <= 4096:
        raise BdbenchError(f"size={size} is not allowed: expected 4..4096, pixels a side")
    return Form(channels, size)


def _shape(form: Form, clean: Clean | None, told: Mapping[str, Any]) -> tuple[int, int, int]:
    if clean is not None:
        height, width, channels = clean.images.shape[1:]
        return height, width, channels
    if form.size is not None:
        return form.size, form.size, form.channels
    if "shape" in told:
        height, width, _ = told["shape"]
        return height, width, form.channels
    raise BdbenchError("nothing says how large the model's images are: expected --size N, in pixels, or --clean DIR")


def _normalisation(asked: Asked, told: Mapping[str, Any], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, float32 (C,)."""
    if (asked.mean is None) != (asked.std is None):
        raise BdbenchError("mean and std come together: expected both, or --normalise")
    if asked.mean is not None and asked.normalise is not None:
        raise BdbenchError(f"normalise={asked.normalise} and a mean are both given: expected either")
    if asked.mean is not None and asked.std is not None:
        return _checked(asked.mean, asked.std, channels)
    if asked.normalise is None and {"mean", "std"} <= told.keys():
        return _checked(told["mean"], told["std"], channels)
    name = asked.normalise or ("imagenet" if channels == 3 else "none")
    if name not in NORMALISATIONS:
        raise unknown("normalisation", name, NORMALISATIONS)
    return _checked(*NORMALISATIONS[name], channels)


def _checked(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[np.ndarray, np.ndarray]:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
            many = "one finite number" if channels == 1 else f"1 or {channels} finite numbers, one a channel"
            raise BdbenchError(f"{name}={list(values)} is not allowed: expected {many}")
    if min(std) <= 0:
        raise BdbenchError(f"std={list(std)} is not allowed: expected numbers > 0")
    made = [np.broadcast_to(np.array(values, np.float32), channels).copy() for values in (mean, std)]
    return made[0], made[1]
