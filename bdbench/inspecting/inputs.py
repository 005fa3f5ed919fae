"""The detectors of inputs at work: what each of them says of the images that a model is asked about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells import metrics, returned
from bdbench.components.defenses import Defense, InputDetector
from bdbench.components.workshop import State
from bdbench.errors import BdbenchError
from bdbench.host import pace
from bdbench.inspecting import images
from bdbench.inspecting.detectors import How, guarded
from bdbench.inspecting.subject import Subject
from bdbench.progress import quiet

# Images by which the pace is measured.
_PROBE = 8


@dataclass(frozen=True)
class Scores:
    """What an input detector says. scores: float64 (m,); limit: the score above which an input is flagged, None where
    no clean images say so; usual: the share of clean images above it; as_high: the share of them that have just this
    score. All are empty unless it ran.
    """

    defense: Defense
    how: How
    reason: str = ""
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    limit: float | None = None
    usual: float = 0.0
    as_high: float = 0.0
    seconds: float = 0.0

    @property
    def flagged(self) -> np.ndarray | None:
        """Which inputs are suspicious, bool (m,); None where that cannot be told."""
        return None if self.limit is None else self.scores > self.limit


@dataclass(frozen=True)
class Inputs:
    """The images of a folder. answers: int64 (m,), the model's labels; skipped: what does not read, and why."""

    root: Path
    paths: list[Path]
    answers: np.ndarray
    by: list[Scores]
    skipped: list[tuple[Path, str]]


class Scorer:
    """An input detector that is ready to score, or the reason why it is not. seconds: what it has taken so far."""

    def __init__(self, defense: InputDetector, how: How, reason: str = "") -> None:
        self.defense, self.how, self.reason, self.seconds = defense, how, reason, 0.0
        self._parts: list[np.ndarray] = [np.empty(0)]
        self._tools: Any = None
        self._state: State = {}

    @classmethod
    def of(cls, subject: Subject, defense: InputDetector) -> Scorer:
        """One that has prepared what it needs before it sees an input."""
        reason = subject.why_not(defense)
        if reason:
            return cls(defense, "not run", reason)
        made = cls(defense, "ran")
        made._tools = subject.tools(defense)
        made._try(lambda: setattr(made, "_state", defense.fit(made._tools)))
        return made

    def seconds_each(self, pixels: np.ndarray) -> float | None:
        """What it takes for an image, by some of them; None unless it runs."""
        if self.how != "ran":
            return None

        def work(times: int) -> None:
            for _ in range(times):
                self._scored(pixels)

        found, failure = guarded(self.defense, lambda: pace.seconds_each(work))
        # What it fails with is said when its turn comes.
        return None if failure else found / len(pixels)

    def add(self, pixels: np.ndarray) -> None:
        """Score some images more."""
        self._try(lambda: self._parts.append(self._scored(pixels)))

    def done(self, subject: Subject) -> Scores:
        """All scores; the limit is the one above which a run of bdbench refuses, which 5 % of the clean images exceed,
        or fewer where several have the same score: nothing is drawn here.
        """
        told: list[np.ndarray] = []
        clean = subject.clean
        if clean is not None:
            self._try(lambda: told.append(metrics.unseen(self._scored(clean.images), self._tools.handed)))
        if self.how != "ran":
            return Scores(self.defense, self.how, self.reason)
        made = Scores(self.defense, "ran", "", np.concatenate(self._parts), seconds=self.seconds)
        if not told:
            return made
        usual = told[0]
        limit = metrics.refusal_threshold(usual).limit
        return replace(made, limit=limit, usual=float((usual > limit).mean()), as_high=float((usual == limit).mean()))

    def _scored(self, pixels: np.ndarray) -> np.ndarray:
        return returned.scores(self.defense, self.defense.score(pixels, self._state, self._tools), len(pixels))

    def _try(self, work: Callable[[], Any]) -> None:
        if self.how != "ran":
            return
        start = time.perf_counter()
        _, failure = guarded(self.defense, work)
        self.seconds += time.perf_counter() - start
        if failure:
            self.how, self.reason = "failed", failure


def expected(subject: Subject, scorers: Sequence[Scorer], files: Sequence[Path]) -> list[float | None]:
    """The seconds that each will take for all images in ``files``, and for the clean ones; None where it is not told.

    A few of the images are scored for it.
    """
    if not files:
        return [None] * len(scorers)
    _, pixels = next(images.batches(files[:_PROBE], subject.form, subject.shape, [], quiet), ([], None))
    count = len(files) + (0 if subject.clean is None else len(subject.clean.images))
    each = [None if pixels is None else one.seconds_each(pixels) for one in scorers]
    return [None if seconds is None else seconds * count for seconds in each]


def score(subject: Subject, scorers: Sequence[Scorer], root: Path, files: Sequence[Path]) -> Inputs:
    """What each detector makes of each of the image files below a folder. Raises BdbenchError if none of them reads."""
    paths: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    answers: list[np.ndarray] = [np.empty(0, np.int64)]
    track = subject.bench.progress.track
    for part, pixels in images.batches(files, subject.form, subject.shape, skipped, track):
        pixels.flags.writeable = False
        paths += part
        answers.append(subject.victim.predict(pixels))
        for one in scorers:
            one.add(pixels)
    if not paths:
        raise BdbenchError(f"{root} holds no images that read: {skipped[0][1]}")
    return Inputs(root, paths, np.concatenate(answers), [one.done(subject) for one in scorers], skipped)
