"""What an inspection is said to take, and what of it is done in the seconds that there are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, InputDetector, ModelDetector, Tools, Verdict, inspecting, param
from bdbench.components.workshop import Oracle, State
from bdbench.host import pace
from bdbench.inspecting.foresight import Expected, fitted
from bdbench.registry.plugins import installed
from tests.inspecting.asking import Place, Says, command, quickly

EACH = 0.01  # seconds of a step


@dataclass(frozen=True, kw_only=True)
class Steady(ModelDetector):
    """Takes its time for every step, in each of which it shows the model an image; needs 20 steps."""

    name = "steady"
    steps: int = param(100, help="steps", low=1)
    slower: float = param(1.0, help="how many times as long as it says a step takes", low=0)

    def inspect(self, tools: Tools) -> Verdict:
        self._work(tools, self.slower)(self.steps)
        return Verdict(0.0, False)

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float]:
        return self._work(tools, 1.0), self.steps

    def within(self, share: float, tools: Tools) -> Self | None:
        steps = int(share * self.steps)
        return replace(self, steps=steps) if steps >= 20 else None

    def _work(self, tools: Tools, slower: float) -> Callable[[int], None]:
        model = tools.victim.module().eval()
        height, width, channels = tools.shape

        def work(steps: int) -> None:
            for _ in range(steps):
                time.sleep(EACH * slower)
                with torch.inference_mode():
                    model(torch.zeros(1, channels, height, width))

        return work


def test_what_it_takes_is_told_by_a_look_at_its_own_work(place: Place, tmp_path: Path) -> None:
    found = quickly(place.good, defenses=[Steady(), Says()])
    steady, says = found.foresight.each
    # However busy the machine is, a step sleeps no less.
    assert steady.whole is not None and 100 * EACH <= steady.whole < 400 * EACH
    assert says.whole is None and not found.foresight.known and found.foresight.limit is None
    told = "\n".join(found.foresight.lines())
    assert "steady: is to run, about " in told and "says: is to run, time not told" in told
    assert "and what could not be told, at this machine's pace" in told


@dataclass(frozen=True, kw_only=True)
class Slow(InputDetector):
    """Takes its time for every image."""

    name = "slow"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        time.sleep(EACH * len(images))
        return np.zeros(len(images))


@dataclass(frozen=True, kw_only=True)
class Told(Slow):
    """Has to be told what nobody knows here."""

    name = "told"
    oracles: ClassVar[tuple[Oracle, ...]] = ("poison_rate",)


def test_what_detectors_of_inputs_take_is_told_by_a_few_of_them(place: Place) -> None:
    inputs = place.clean
    count = len(list(inputs.rglob("*.png")))
    with inspecting.prepared(place.good, defenses=[Steady(steps=20), Slow(), Told()], inputs=inputs) as ready:
        slow, told = ready.foresight.of_inputs
        # However busy the machine is, an image sleeps no less.
        assert slow.seconds is not None and count * EACH <= slow.seconds < 4 * count * EACH
        assert (
            told.seconds is None and told.reason.startswith("it has to be told poison_rate") and ready.foresight.known
        )
        lines = list(ready.lines())
    assert f"slow: is to run, about {pace.shown(slow.seconds)}" in lines and f"told: {told.told()}" in lines
    assert ready.foresight.seconds == pytest.approx(
        slow.seconds + sum(one.seconds or 0 for one in ready.foresight.each)
    )
    # The clean images are scored as well: by them it is known what is suspicious.
    with inspecting.prepared(place.good, defenses=[Slow()], inputs=inputs, clean=place.clean) as both:
        (twice,) = both.foresight.of_inputs
    assert twice.seconds is not None and twice.seconds >= 2 * count * EACH


def test_what_comes_once_is_not_counted_with_every_step() -> None:
    begun: list[int] = []

    def work(steps: int) -> None:
        begun.append(steps)
        time.sleep(0.3 + 0.002 * steps)

    assert 0.001 <= pace.seconds_each(work) < 0.02
    assert begun[:3] == [1, 1, 9]


def test_detectors_do_less_where_there_is_less_time(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = quickly(place.good, defenses=[Steady(steps=200)], seconds=1.2, out=out)
    (one,) = found.foresight.each
    assert isinstance(one.runs, Steady) and 20 <= one.runs.steps < 100 and one.seconds is not None
    assert one.seconds == pytest.approx(0.8 * 1.2) and one.allotted == pytest.approx(1.2)
    (limit, *_) = [line for line in found.conclusion.limits if "--seconds" in line]
    assert limit.startswith(f"For --seconds steady ran with steps={one.runs.steps} in place of 200: ")
    told = json.loads((out / "inspect.json").read_text())
    assert told["estimate"]["limit"] == 1.2 and told["detectors"][0]["spec"] == told["estimate"]["detectors"][0]["runs"]
    # The pace is kept, so that the same command asks for the same pieces.
    again = quickly(place.good, defenses=[Steady(steps=200)], seconds=1.2, out=out)
    assert again.foresight == found.foresight


def test_a_detector_that_cannot_do_with_so_little_is_left_out_and_named(place: Place, tmp_path: Path) -> None:
    ended = command(place.good, "mm-bd:images=4,steps=60000", seconds=0.05, out=tmp_path)
    assert ended.exit_code == 3, ended.output
    assert ended.stdout.startswith("Cannot tell: no detector ran (mm-bd: it takes about ")
    assert "expected more --seconds" in ended.stdout and "mm-bd did not run" in ended.stdout


def test_the_dearest_is_left_out_first(place: Place) -> None:
    subject = quickly(place.good).subject
    one, other = Steady(steps=40), Steady(steps=1000)
    both = [Expected(one, 0.4, one, 0.4), Expected(other, 1000.0, other, 1000.0)]
    first, second = fitted(subject, both, 1.0)
    assert first.runs == one and first.allotted == pytest.approx(1.0)
    assert second.runs is None and second.reason.startswith("it takes about 0:16:40, and cannot do with 0.8 s")
    plenty = fitted(subject, both, 10_000.0)
    assert [e.runs for e in plenty] == [one, other] and not any(e.less for e in plenty)


def test_a_detector_that_takes_longer_than_it_said_is_stopped(place: Place, tmp_path: Path) -> None:
    start = time.perf_counter()
    found = quickly(place.good, defenses=[Steady(slower=50.0), Says()], seconds=4)
    assert time.perf_counter() - start < 25  # it would take 50
    late, says = found.findings
    assert (late.how, says.how) == ("not run", "ran") and late.reason.startswith("it was stopped after ")
    assert found.verdict == "nothing found" and any("steady did not run" in line for line in found.conclusion.limits)


def test_detectors_of_this_house_say_what_they_take_and_do_less(place: Place) -> None:
    """Half of the work has half the steps; a hundredth would say nothing."""
    names = (
        "neural-cleanse:rounds=200,batch=60",
        "mm-bd:images=4,steps=200",
        "bti-dbf:steps=400",
        "feature-re:passes=200",
    )
    subject = quickly(place.good, clean=place.clean).subject
    for name in names:
        one = installed().component("defense", name)
        tools = subject.tools(one)
        work, steps = one.pace(tools)
        work(1)
        less = one.within(0.5, tools)
        assert less is not None and one.within(0.01, tools) is None, name
        assert less.pace(tools)[1] == pytest.approx(0.5 * steps, rel=0.2), name


@pytest.mark.parametrize("seconds", [0, -1, np.nan])
def test_what_is_no_time_is_refused(place: Place, seconds: float) -> None:
    with pytest.raises(BdbenchError, match=r"seconds=.* is not allowed: expected more than 0"):
        quickly(place.good, seconds=seconds)
