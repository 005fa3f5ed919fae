"""Where detectors work on what was read: the view that they see, the bench, and the models they share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench.cells import models
from bdbench.cells.bench import Bench
from bdbench.cells.tools import Awaited, HarnessTools
from bdbench.components import guard
from bdbench.components.defenses import Detector
from bdbench.components.interfaces import Architecture
from bdbench.host import machine
from bdbench.images import data
from bdbench.images.data import TrainingView
from bdbench.networks import training
from bdbench.networks.training import Victim
from bdbench.progress import Progress
from bdbench.scanning.reading import Read
from bdbench.seeds import Streams
from bdbench.storage.store import Stage, Store

# Whatever the images are of, by the recipe for sets that nobody knows.
_RECIPE = "scanned"
_LOOKED_INTO = "victim"


@dataclass(frozen=True)
class Laboratory:
    """One set of images under one seed. view: what was read, as detectors see it."""

    view: TrainingView
    bench: Bench
    streams: Streams

    @classmethod
    def of(
        cls, found: Read, architecture: Architecture, streams: Streams, device: str, folder: Path, progress: Progress
    ) -> Laboratory:
        """folder: where stage results are kept. Raises BdbenchError if images of that size do not fit the model."""
        view = TrainingView(found.images, guard.read_only(found.labels), len(found.classes))
        return cls.on(view, architecture, streams, device, folder, progress)

    @classmethod
    def on(
        cls,
        view: TrainingView,
        architecture: Architecture,
        streams: Streams,
        device: str,
        folder: Path,
        progress: Progress,
    ) -> Laboratory:
        """On any view."""
        height, width, channels = view.images.shape[1:]
        with guard.call(architecture):
            bench = Bench.of(
                architecture,
                _RECIPE,
                (height, width, channels),
                view.num_classes,
                contents=data.fingerprint_of(view),
                seed=streams.seed,
                device=training.pick_device(device),
                precision=machine.precision("auto", training.pick_device(device)),
                store=Store(folder),
                progress=progress,
            )
        return cls(view, bench, streams)

    @functools.cached_property
    def victim(self) -> tuple[Victim, Stage]:
        """A model trained on all of the set, which detectors look into."""
        return self.trained(None, _LOOKED_INTO, "train a model to look into")

    def trained(self, kept: np.ndarray | None, stream: str, label: str) -> tuple[Victim, Stage]:
        """A model trained on the kept part, bool (n,)."""
        return models.trained(self.bench, self.streams, self.view.images, self.view.labels, kept, stream, label)

    def tools(self, detector: Detector) -> HarnessTools:
        """What a detector may use. A model to look into is trained when the first of them looks."""

        def own() -> Victim:
            return self.bench.restore(self.victim[0].arrays(), "the model")

        awaited = Awaited(_LOOKED_INTO, own)
        return HarnessTools(
            detector.name, self.bench, self.streams, victim=awaited, oracles={}, examples=len(self.view.labels)
        )
