"""Checks of metrics, on the measurements of finished cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from bdbench.components.interfaces import Measured, Metric
from bdbench.images.data import Role
from bdbench.testing import records
from bdbench.testing.checks import check, expect

_COUNT = 50


def _cells() -> Iterator[tuple[str, Measured]]:
    """Cells of defenses of every stage, attacked with and without COVER examples, and controls on a clean set."""
    attacked, control = asdict(records.WHOLE), asdict(records.CONTROL)
    scores = np.random.default_rng(0).random(_COUNT)
    kept = scores < 0.9
    clean = np.full(_COUNT, Role.CLEAN, np.int8)
    poisoned = clean.copy()
    poisoned[:5] = Role.POISON
    covered = poisoned.copy()
    covered[5:8] = Role.COVER
    yield "a detector's cell", Measured(poisoned, scores, kept, attacked, attacked)
    yield "a detector's cell with COVER examples", Measured(covered, scores, kept, attacked, attacked)
    yield "a detector's cell with budget 0", Measured(poisoned, scores, None, attacked, {})
    yield "a detector's control", Measured(clean, scores, kept, control, control)
    yield "a mitigation's cell", Measured(poisoned, None, None, asdict(records.ATTACKED), attacked)
    yield "a mitigation's control", Measured(clean, None, None, control, control)
    yield "a model detector's cell", Measured(poisoned, None, None, attacked, {})
    yield "a model detector's control", Measured(clean, None, None, control, {})


@check("metric")
def says_what_it_is(metric: Metric) -> None:
    """``help`` is one line that says what the number means, and where it lies.

    ``bdbench list metrics`` shows it, and there is nothing else that a reader of a record could go by.
    """
    expect(metric.help and "\n" not in metric.help, f"help={metric.help!r}")


@check("metric")
def gives_a_number_or_none_for_every_cell(metric: Metric) -> None:
    """``compute`` gives a finite float, or None where it does not apply: no scores, no poisons, no attack.

    Mitigations have no scores, controls no poisons, and model detectors no accuracies after. A metric that fails there
    is lost for the whole run, and 0 in place of None would be averaged.
    """
    for name, measured in _cells():
        try:
            value = metric.compute(measured)
        except Exception as error:
            expect(False, f"{type(error).__name__}: {error} for {name}")
        number = value is None or (isinstance(value, int | float | np.number) and math.isfinite(value))
        expect(number, f"{value!r} for {name}")
    expect(any(metric.compute(m) is not None for _, m in _cells()), "None for every cell")


@check("metric")
def leaves_the_measurements_as_they_were(metric: Metric) -> None:
    """``compute`` changes nothing that it is given.

    The same arrays are written to scores.npz, and handed to the next metric.
    """
    for (name, measured), (_, untouched) in zip(_cells(), _cells(), strict=True):
        metric.compute(measured)
        for field, wanted in vars(untouched).items():
            found = getattr(measured, field)
            same = np.array_equal(found, wanted) if isinstance(wanted, np.ndarray) else found == wanted
            expect(same, f"{field} changed in {name}")


@check("metric")
def same_cell_same_number(metric: Metric) -> None:
    """The same cell gives the same number.

    A record is made once and compared for years.
    """
    for (name, one), (_, other) in zip(_cells(), _cells(), strict=True):
        first, second = metric.compute(one), metric.compute(other)
        expect(first == second, f"{first} and {second} for {name}")
