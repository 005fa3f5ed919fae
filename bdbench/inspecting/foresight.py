"""What an inspection will take, told before it starts, and what of it fits into the time that there is.

Each detector of models gives a small part of its work on this very model, which is timed. Those that do not fit are
told to do less of it, all to the same share; one that cannot do so little is left out, and named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bdbench.components import configs, guard
from bdbench.components.defenses import InputDetector, ModelDetector
from bdbench.errors import BdbenchError
from bdbench.host import pace
from bdbench.inspecting.subject import Subject

# The share of the time that is planned for: a pace is measured in a moment, and machines are not always as fast.
_PLANNED = 0.8


@dataclass(frozen=True)
class Expected:
    """Of one detector. asked: as it was asked for; whole: the seconds that it usually takes, None if that is not known;
    runs: as it will run, None if it will not, and then reason says why; seconds: what that takes; allotted: the seconds
    after which it is stopped, None: never.
    """

    asked: ModelDetector
    whole: float | None = None
    runs: ModelDetector | None = None
    seconds: float | None = None
    allotted: float | None = None
    reason: str = ""

    @property
    def less(self) -> str:
        """What it is given less of than was asked for: ``steps=600 in place of 3000``; "" for nothing."""
        if self.runs is None or self.runs == self.asked:
            return ""
        told = []
        for field in dataclasses.fields(self.asked):
            now, before = (getattr(one, field.name) for one in (self.runs, self.asked))
            if now != before:
                told.append(f"{field.name}={now} in place of {before}")
        return ", ".join(told)

    def told(self) -> str:
        """It for a person."""
        if self.runs is None:
            return f"is not run: {self.reason}"
        return f"is to run, {_told(self.seconds)}{f', with {self.less}' if self.less else ''}"


@dataclass(frozen=True)
class Scoring:
    """Of one detector of inputs. seconds: for all inputs, None if that is not known; reason: why it will not run."""

    asked: InputDetector
    seconds: float | None = None
    reason: str = ""

    def told(self) -> str:
        """It for a person."""
        return f"is not run: {self.reason}" if self.reason else f"is to run, {_told(self.seconds)}"


@dataclass(frozen=True)
class Foresight:
    """each: of the detectors of models, in order; limit: the seconds that these were given, None: as long as they take;
    of_inputs: of the detectors of inputs.
    """

    each: tuple[Expected, ...]
    limit: float | None
    of_inputs: tuple[Scoring, ...] = ()

    @property
    def seconds(self) -> float:
        """All of it, as far as it can be told."""
        return sum(one.seconds or 0 for one in self._all)

    @property
    def known(self) -> bool:
        """Whether the time of all that runs is known."""
        return all(one.seconds is not None for one in self._all if not one.reason)

    @property
    def _all(self) -> list[Expected | Scoring]:
        return [*self.of_inputs, *self.each]

    def lines(self) -> Iterator[str]:
        """For a person: a line for each detector, and one for all of them."""
        for one in self._all:
            yield f"{one.asked.name}: {one.told()}"
        more = "" if self.known else ", and what could not be told"
        whose = " for the detectors of models" if self.of_inputs else ""
        of = "" if self.limit is None else f", of {pace.shown(self.limit)} that there are{whose}"
        yield f"in all: about {pace.shown(self.seconds)}{more}{of}, at this machine's pace"

    def to_dict(self) -> dict[str, Any]:
        """For programs: what stands in inspect.json."""
        return {
            "seconds": round(self.seconds, 3),
            "all_known": self.known,
            "limit": self.limit,
            "detectors": [
                {
                    "name": one.asked.name,
                    "asked": configs.spec(one.asked.config()),
                    "asked_seconds": None if one.whole is None else round(one.whole, 3),
                    "runs": None if one.runs is None else configs.spec(one.runs.config()),
                    "seconds": None if one.seconds is None else round(one.seconds, 3),
                    "reason": one.reason,
                }
                for one in self.each
            ],
            "inputs": [
                {
                    "name": one.asked.name,
                    "asked": configs.spec(one.asked.config()),
                    "seconds": None if one.seconds is None else round(one.seconds, 3),
                    "reason": one.reason,
                }
                for one in self.of_inputs
            ],
        }


def foresee(
    subject: Subject, detectors: Sequence[ModelDetector], limit: float | None, of_inputs: Sequence[Scoring] = ()
) -> Foresight:
    """Measure the pace, in some seconds, unless it was measured before; and say what fits into ``limit`` seconds."""
    reasons = [subject.why_not(one) or "" for one in detectors]
    able = [one for one, reason in zip(detectors, reasons, strict=True) if not reason]
    whole = iter(_measured(subject, able) if able else [])
    each = [
        Expected(one, reason=reason) if reason else _as_asked(one, next(whole))
        for one, reason in zip(detectors, reasons, strict=True)
    ]
    return Foresight(tuple(each if limit is None else fitted(subject, each, limit)), limit, tuple(of_inputs))


def fitted(subject: Subject, each: Sequence[Expected], limit: float) -> list[Expected]:
    """The same in ``limit`` seconds: with less work, and without those that cannot do with so little.

    Those whose time is not known get an even part of it each, and are stopped when it is over.
    """
    out = {i for i, one in enumerate(each) if one.runs is None}
    left_out: dict[int, Expected] = {}
    while True:
        running = [i for i in range(len(each)) if i not in out]
        unknown = [i for i in running if each[i].whole is None]
        even = limit / max(1, len(running))
        time = limit - even * len(unknown)
        total = sum(each[i].whole or 0 for i in running)
        share = min(1.0, _PLANNED * time / total) if total else 1.0
        made = {i: each[i] if each[i].whole is None else _cut(subject, each[i], share) for i in running}
        failing = [i for i in running if made[i].runs is None]
        if not failing:
            break
        # The dearest first: without it there may be time for the others.
        dearest = max(failing, key=lambda i: each[i].whole or 0)
        left_out[dearest] = made[dearest]
        out.add(dearest)
    # What the plan leaves free is theirs, too: only beyond it they are stopped.
    spare = time / max(1e-9, sum(one.seconds or 0 for one in made.values()))
    made = {i: replace(one, allotted=even if one.seconds is None else spare * one.seconds) for i, one in made.items()}
    return [{**left_out, **made}.get(i, one) for i, one in enumerate(each)]


def _told(seconds: float | None) -> str:
    return "time not told" if seconds is None else f"about {pace.shown(seconds)}"


def _as_asked(one: ModelDetector, whole: float) -> Expected:
    known = None if np.isnan(whole) else whole
    return Expected(one, known, one, known)


def _cut(subject: Subject, one: Expected, share: float) -> Expected:
    """A detector with a share of its work."""
    assert one.whole is not None
    less = one.asked if share >= 1 else None
    if share < 1:
        with guard.call(one.asked):
            less = one.asked.within(share, subject.tools(one.asked))
    if less is None:
        needs, part = pace.shown(one.whole), pace.shown(share * one.whole)
        reason = f"it takes about {needs}, and cannot do with {part}: expected more --seconds"
        return replace(one, runs=None, seconds=None, reason=reason)
    return replace(one, runs=less, seconds=share * one.whole)


def _measured(subject: Subject, detectors: Sequence[ModelDetector]) -> list[float]:
    """The seconds of each, NaN where they are not known."""
    bench = subject.bench

    def made() -> tuple[dict[str, np.ndarray], float]:
        advance = bench.progress.track(len(detectors), "measure the pace")
        found = []
        for one in detectors:
            found.append(_seconds(subject, one))
            advance(1)
        return {"seconds": np.array(found)}, 0.0

    config = {"stage": "pace", **bench.made_from, "model": bench.architecture.config()}
    found = bench.store.stage({**config, "detectors": [one.config() for one in detectors]}, made)
    return [float(one) for one in found.arrays["seconds"]]


def _seconds(subject: Subject, one: ModelDetector) -> float:
    try:
        with guard.call(one):
            look = one.pace(subject.tools(one))
            return float("nan") if look is None else pace.seconds_each(look[0]) * look[1]
    except Exception:  # said, if it happens again, when its turn comes
        return float("nan")


def checked_limit(seconds: float | None) -> float | None:
    """The same. Raises BdbenchError for what is no time."""
    if seconds is not None and not seconds > 0:
        raise BdbenchError(f"seconds={seconds} is not allowed: expected more than 0")
    return seconds
