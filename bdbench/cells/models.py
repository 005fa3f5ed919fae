"""The models of a cell that its defenses share, and how any model is measured on the cell's challenge."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np

from bdbench.cells import metrics, returned
from bdbench.cells.bench import Bench
from bdbench.cells.scene import Scene
from bdbench.components import guard, sources
from bdbench.components.defenses import Model
from bdbench.images import data
from bdbench.networks.training import Victim
from bdbench.seeds import Streams
from bdbench.storage.record import Performance
from bdbench.storage.store import Stage

Check = Callable[[np.ndarray, int], np.ndarray]


class Models:
    """The victim, the reference, and models trained on parts of a poisoned set; each is made when first asked for."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @functools.cached_property
    def victim(self) -> Victim:
        """The model under suspicion: the attacker's own, if there is one, else trained on the poisoned set."""
        return self._victim[0]

    @functools.cached_property
    def victim_stage(self) -> Stage:
        """How the victim came about: its seconds, and whether it was found."""
        return self._victim[1]

    @functools.cached_property
    def _victim(self) -> tuple[Victim, Stage]:
        scene = self.scene
        with guard.call(scene.attack):
            given = returned.victim(scene.attack, scene.attack.victim(scene.state, scene.workshop))
        found = (
            (given, Stage({}, 0.0, reused=True))
            if given is not None
            else self.trained(None, "victim", "train the victim")
        )
        scene.seconds["victim"] = found[1].seconds
        return found

    @functools.cached_property
    def before(self) -> Performance:
        """What the victim does."""
        return self.performance(self.victim)

    @functools.cached_property
    def reference_stage(self) -> tuple[Performance, Stage]:
        """What plain training on the whole set gives, by the stream that is used after removal.

        What a removal did is measured against it: the victim's initialisation, or an attacker's own training, are
        other ones, and their difference would pass for the removal's.
        """
        model, stage = self.trained(None, "retrain", "train the reference")
        self.scene.seconds["reference"] = stage.seconds
        return self.performance(model), stage

    @property
    def none(self) -> Performance:
        """What no model does: every image is refused."""
        challenge = self.scene.challenge
        refused = [np.full(len(self.scene.images.test.labels), metrics.REFUSED)]
        refused += [] if challenge is None else [np.full(len(challenge.images), metrics.REFUSED)]
        return self.measured(refused[0], None if challenge is None else refused[1])

    @functools.cached_property
    def floor(self) -> Performance | None:
        """What the challenge does to a model of the clean set that is otherwise the victim; None where there is none.

        A trigger that a clean model obeys as well owes nothing to the poisons.
        """
        if self.scene.challenge is None:
            return None
        train = self.scene.images.train
        scene, images = self.scene, np.asarray(train.images)
        model, _ = trained(scene.clean, scene.streams, images, train.labels, None, "victim", "train a clean model")
        return self.performance(model)

    def trained(self, kept: np.ndarray | None, stream: str, label: str) -> tuple[Victim, Stage]:
        """A model trained on the kept part, bool (n,), of the poisoned set; None: on all of it."""
        scene, view = self.scene, self.scene.view
        return trained(scene.bench, scene.streams, view.images, view.labels, kept, stream, label)

    def predictions(self, model: Model, check: Check | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """What a model says of the test images, and of the challenge's.

        check: of a model that a defense brings, a Victim or not; is handed what it says, and of how many images. Such a
        model is asked of both in one shuffled heap: what it says of an image is not to hang on which of the two it is,
        and two calls, or batches of one of them alone, would tell it. None: the harness trained it.
        """
        images, challenge = np.asarray(self.scene.images.test.images), self.scene.challenge
        if check is None:
            return model.predict(images), None if challenge is None else model.predict(challenge.images)
        if challenge is None:
            return check(model.predict(images), len(images)), None
        order = self.scene.streams("asked").permutation(len(images) + len(challenge.images))
        shown = np.concatenate([images, challenge.images])[order]
        shown.flags.writeable = False  # as the images themselves are
        answers = check(model.predict(shown), len(order))
        heap = np.empty_like(answers)
        heap[order] = answers
        return heap[: len(images)], heap[len(images) :]

    def performance(self, model: Model) -> Performance:
        """What a trained network does on the test set and the challenge."""
        with guard.call(self.scene.setting.model):
            return self.measured(*self.predictions(model))

    def measured(self, clean: np.ndarray, challenged: np.ndarray | None) -> Performance:
        """What predictions on the test set and the challenge amount to."""
        labels, challenge = self.scene.images.test.labels, self.scene.challenge
        return metrics.performance(clean, labels, challenge, challenged, self.shown)

    @functools.cached_property
    def shown(self) -> np.ndarray | None:
        """Which test images the challenge shows as they are, bool (n,); None without a challenge."""
        challenge = self.scene.challenge
        return None if challenge is None else challenge.shown(self.scene.images.test)


def trained(
    bench: Bench,
    streams: Streams,
    images: np.ndarray,
    labels: np.ndarray,
    kept: np.ndarray | None,
    stream: str,
    label: str,
) -> tuple[Victim, Stage]:
    """A model trained on the kept part, bool (n,), of a set (None: all of it), found again if it was.

    images: uint8 (n, H, W, C); labels: int64 (n,); stream: what is drawn from; label: of the progress bar.
    """
    index = np.arange(len(labels)) if kept is None else np.flatnonzero(kept)
    trainer = bench.trainer
    config = {
        "stage": "train",
        **bench.made_from,
        "kept": data.fingerprint(index),
        "model": bench.architecture.config(),
        "model_code": sources.code_of(bench.architecture),
        "recipe": asdict(trainer.recipe),
        "stream": stream,
    }
    seed = streams.integer(stream)

    def make() -> tuple[Mapping[str, np.ndarray], float]:
        start = time.perf_counter()
        with guard.call(bench.architecture):
            victim = trainer.train(images[index], labels[index], seed, label)
        return victim.arrays(), time.perf_counter() - start

    stage = bench.store.stage(config, make)
    with guard.call(bench.architecture):
        return trainer.restore(stage.arrays), stage
