from __future__ import annotations

import pytest

from bdbench.host import pace


class Clock:
    """Time that passes with the steps of work alone, of which no more are done than ``ends``."""

    def __init__(self, step: float, ends: int | None = None, blip: int | None = None) -> None:
        self.now, self.step, self.ends, self.blip, self.asked = 0.0, step, ends, blip, 0

    def perf_counter(self) -> float:
        return self.now

    def work(self, steps: int) -> None:
        self.asked += 1
        assert self.asked < 30, "it never ends"
        self.now += 0.05 + self.step * (steps if self.ends is None else min(steps, self.ends))
        if self.asked == self.blip:
            self.now += 0.1


def seen(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> float:
    monkeypatch.setattr(pace.time, "perf_counter", clock.perf_counter)
    return pace.seconds_each(clock.work)


@pytest.mark.parametrize("step", [2e-6, 1e-3, 0.05, 3.0])
def test_a_step_is_told_whatever_comes_once_for_all(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    expected = step if step < 2 else step + 0.05  # a slow one is not taken apart
    assert seen(monkeypatch, Clock(step)) == pytest.approx(expected)


def test_work_that_ends_before_is_told_by_the_steps_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    # 50 steps of a millisecond are never a look of .1 s, and a step of 33 takes its millisecond all the same.
    assert seen(monkeypatch, Clock(1e-3, ends=50)) == pytest.approx(1e-3)


def test_a_pause_of_the_machine_is_not_taken_for_the_steps_that_were_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, Clock(1e-3, ends=50, blip=8)) == pytest.approx(1e-3)
