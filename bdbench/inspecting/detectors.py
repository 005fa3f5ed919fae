"""The detectors of models at work: what each of them says of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from bdbench.cells import returned
from bdbench.components import guard
from bdbench.components.defenses import Defense, InputDetector, ModelDetector, Verdict, check_distinct
from bdbench.components.interfaces import ReversedTrigger
from bdbench.errors import BdbenchError
from bdbench.host import pace
from bdbench.inspecting.foresight import Expected
from bdbench.inspecting.subject import Subject
from bdbench.registry.plugins import installed
from bdbench.storage.files import notice

# Per stage, what is asked where the user names nothing of that stage.
DEFAULTS = {"model": ("neural-cleanse", "mm-bd"), "inputs": ("strip",)}

How = Literal["ran", "not run", "failed"]
"""What became of a detector."""


@dataclass(frozen=True)
class Finding:
    """What a model detector says. verdict: None unless it ran; reason: why it did not, or with what it failed; less:
    what it was given less of than was asked for, "" for nothing.
    """

    defense: Defense
    how: How
    reason: str = ""
    verdict: Verdict | None = None
    seconds: float = 0.0
    triggers: list[ReversedTrigger] = field(default_factory=list)
    less: str = ""


def chosen(specs: Sequence[str | Defense], inputs: bool) -> tuple[list[ModelDetector], list[InputDetector]]:
    """The detectors of those names; of a stage of which none is named, its defaults, but of inputs only if there are.

    Raises BdbenchError for a defense of another stage, one named twice, or an input detector without inputs.
    """
    found = [installed().component("defense", spec) for spec in specs]
    check_distinct(found)
    for defense in found:
        if defense.stage not in DEFAULTS:
            raise BdbenchError(
                f"defense {defense.name!r} is of stage {defense.stage!r}: expected a detector of models "
                f"({_names(ModelDetector)}) or of inputs ({_names(InputDetector)})"
            )
        if defense.stage == "inputs" and not inputs:
            raise BdbenchError(f"defense {defense.name!r} scores inputs: expected --inputs DIR")
    models, of_inputs = (
        [d for d in found if d.stage == stage] or [installed().component("defense", name) for name in names]
        for stage, names in DEFAULTS.items()
    )
    return models, of_inputs if inputs else []


def inspect(subject: Subject, expected: Expected, until: float = math.inf) -> Finding:
    """What a detector makes of the model. One that fails is named, and ends nothing else.

    until: when it is stopped, by time.perf_counter: at the next image that it shows the model.
    """
    defense = expected.runs
    if defense is None:
        return Finding(expected.asked, "not run", expected.reason)
    start = time.perf_counter()
    clock = _Clock(until)

    def asked() -> Verdict:
        tools = subject.tools(defense)
        clock.watch(tools.victim.network)
        return returned.verdict(defense, defense.inspect(tools), len(subject.classes))

    verdict, failure = guarded(defense, asked)
    seconds = time.perf_counter() - start
    if verdict is None and clock.over:
        late = f"it was stopped after {pace.shown(seconds)}, its part of --seconds; the same command goes on from there"
        return Finding(defense, "not run", late, None, seconds, less=expected.less)
    if verdict is None:
        return Finding(defense, "failed", failure, None, seconds, less=expected.less)
    return Finding(defense, "ran", "", verdict, seconds, list(_triggers(subject, defense)), expected.less)


class _Clock:
    """Stops whoever shows a network something after ``until``. over: whether it has."""

    def __init__(self, until: float) -> None:
        self.until, self.over = until, False

    def watch(self, network: torch.nn.Module) -> None:
        """Look at the time whenever a part of the network is used: it may be used without the whole."""
        if math.isfinite(self.until):
            for module in network.modules():
                module.register_forward_pre_hook(self._look)

    def _look(self, *_: object) -> None:
        if time.perf_counter() > self.until:
            self.over = True
            raise TimeoutError("its time is over")


def guarded(defense: Defense, work: Callable[[], Any]) -> tuple[Any, str]:
    """What the work gives, or None and with what it failed, in one line."""
    try:
        with guard.call(defense):
            return work(), ""
    except Exception as error:
        return None, installed().told(error)


def _triggers(subject: Subject, defense: ModelDetector) -> Iterator[ReversedTrigger]:
    tools = subject.tools(defense)
    for made in installed().collect("bdbench_reversed_triggers", defense=defense, tools=tools):
        picture = np.asarray(getattr(made, "picture", None))
        fits = isinstance(made, ReversedTrigger) and made.label in range(len(subject.classes))
        if not fits or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
            notice(f"a reversed trigger of {defense.name!r} is left out: expected a label, and uint8 (H, W, 1 or 3)")
            continue
        yield made


def _names(kind: type[Defense]) -> str:
    return ", ".join(r.name for r in installed().registered("defense") if issubclass(r.component, kind))
