"""Detectors at work on a set, one after another; what one fails with stops no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bdbench.cells import returned
from bdbench.cells.stages.work import Conclusion, concluded
from bdbench.components.defenses import Detector, check_distinct
from bdbench.errors import BdbenchError
from bdbench.images import data
from bdbench.registry.plugins import installed
from bdbench.scanning.laboratory import Laboratory
from bdbench.scoring import detector

# The parameter of detectors that can work for as long as they are told.
_SECONDS = "seconds"


@dataclass(frozen=True)
class Said:
    """What a detector said. scores: float64 (n,), higher = more suspicious; flagged: bool (n,), None if it has no rule;
    p_value: how likely a clean set would look at least as suspicious, None if it cannot tell; usual: how many models it
    trains where no time is set, None if it does not say; evidence: what speaks against each class, by label; error:
    what it failed with, and then there is nothing else; mendable: whether its user can mend that.
    """

    detector: Detector
    scores: np.ndarray
    flagged: np.ndarray | None = None
    p_value: float | None = None
    seconds: float = 0.0
    models_trained: int = 0
    usual: int | None = None
    evidence: dict[int, float] | None = None
    error: str | None = None
    mendable: bool = False


def chosen(specs: Sequence[str | Detector], seconds: float | None) -> list[Detector]:
    """The detectors of these names and parameters; those that can be told share ``seconds``.

    Raises BdbenchError for one that is none, comes twice, or must be told what nobody knows of his own images.
    """
    found = [detector(spec) for spec in specs]
    check_distinct(found)
    for one in found:
        if one.told:
            raise BdbenchError(
                f"defense {one.name!r} must be told {one.told[0]!r}, which a scan does not know: expected a detector "
                "that needs nothing but the images"
            )
    if seconds is None:
        return found
    able = [one for one in found if can_be_told(one) and limit(one) is None]
    if not able:
        names = ", ".join(one.name for one in found)
        raise BdbenchError(
            f"--seconds {seconds:g} is not allowed: expected a detector that can be told, unlike {names}"
        )
    return [dataclasses.replace(one, **{_SECONDS: seconds / len(able)}) if one in able else one for one in found]


def can_be_told(one: Detector) -> bool:
    """Whether a detector has a parameter for how long it works."""
    return any(field.name == _SECONDS for field in dataclasses.fields(one))


def limit(one: Detector) -> float | None:
    """How long it was told to work, in seconds."""
    return getattr(one, _SECONDS) if can_be_told(one) else None


def untimed(one: Detector) -> Detector:
    """The same, working for as long as it likes."""
    return dataclasses.replace(one, **{_SECONDS: None}) if can_be_told(one) else one


def listen(laboratory: Laboratory, one: Detector) -> Said:
    """Let a detector at the set: what it says, found again if it was said before, or what it failed with."""
    nothing = np.zeros(len(laboratory.view.labels))
    try:
        return _heard(laboratory, one)
    except Exception as error:
        return Said(one, nothing, error=installed().told(error), mendable=isinstance(error, BdbenchError))


def _heard(laboratory: Laboratory, one: Detector) -> Said:
    view, tools = laboratory.view, laboratory.tools(one)
    n, before = len(view.labels), data.fingerprint_of(view)
    who = f"defense {one.name!r}"
    stage = concluded(
        one,
        laboratory.bench,
        tools,
        {"stage": "scan"},
        lambda: {"scores": returned.scores(one, one.score(view, tools), n)},
        lambda: returned.untouched(who, [view], [before]),
    )
    conclusion, arrays = Conclusion.of(stage)
    height, width, channels = view.images.shape[1:]
    return Said(
        one,
        arrays["scores"],
        arrays.get("flagged"),
        conclusion.p_value,
        stage.seconds,
        conclusion.models_trained,
        untimed(one).needs(n, (height, width, channels), view.num_classes).models,
        conclusion.evidence,
    )
