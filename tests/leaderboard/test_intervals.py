from __future__ import annotations

import numpy as np
import pytest

from bdbench.leaderboard import intervals
from bdbench.leaderboard.columns import NUMBERS, SHOWN, pools, value
from bdbench.storage.record import schema
from tests import records


def test_wilson_solves_its_equation() -> None:
    # The ends are the shares q with |p - q| = z sqrt(q (1 - q) / n).
    for p, n in ((0.0, 10), (0.2, 10), (0.5, 37), (0.99, 400), (1.0, 3)):
        low, high = intervals.wilson(p, n)
        for q in (low, high):
            assert abs(p - q) == pytest.approx(intervals.Z * np.sqrt(q * (1 - q) / n), abs=1e-9)
    # The published 3 of 20: [5, 36] %.
    assert [round(float(100 * end)) for end in intervals.wilson(3 / 20, 20)] == [5, 36]
    assert np.isnan(intervals.wilson(0.5, 0)).all()


def test_wilson_reaches_beyond_what_seeds_that_agree_say() -> None:
    # None of 360: the upper end is z^2 / (n + z^2).
    assert intervals.reach(0.0, 360) == pytest.approx(intervals.Z**2 / (360 + intervals.Z**2))
    assert intervals.reach(1.0, 360) == pytest.approx(intervals.reach(0.0, 360))
    assert intervals.reach(0.5, 0) == 0.0


def test_the_doubts_of_a_sum_add_up_by_their_squares() -> None:
    shares = {"ca_base": 0.9, "ca_after": 0.8, "asr_base": 1.0, "asr_after": 0.0}
    counts = dict.fromkeys(shares, 100)
    each = {name: float(intervals.reach(share, 100)) for name, share in shares.items()}
    whole = intervals.reaches(shares, counts, "signed")
    assert whole == pytest.approx(0.5 * np.sqrt(sum(reach**2 for reach in each.values())))
    own = intervals.reaches(shares, counts, "signed", own=True)
    assert own == pytest.approx(0.5 * np.hypot(each["ca_after"], each["asr_after"]))
    assert intervals.reaches(shares, counts, "ca_cost") == pytest.approx(np.hypot(each["ca_base"], each["ca_after"]))


def test_students_interval_by_hand() -> None:
    # t of 2 and of 4 degrees of freedom.
    assert intervals.student(0.1, 3) == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    assert intervals.student(0.2, 5) == pytest.approx(2.776445 * 0.2 / np.sqrt(5), rel=1e-6)
    assert np.isnan(intervals.student(0.0, 1))


def test_every_number_is_a_share_of_something_or_made_of_numbers_that_are() -> None:
    known = pools(records.made())
    for name, number in NUMBERS.items():
        if number.terms is not None:
            assert all(NUMBERS[term].pool for term in number.terms), name
        elif not number.path.startswith("stealth."):
            assert number.pool in known, name
    assert known["clean"] == 950 and known["ranking"] == 50 and known["inputs"] == 360
    # Of a poisoned set with more poisons than clean examples, the clean ones are the fewer.
    assert pools(records.made(facts={"poisons": 700, "covers": 100}))["ranking"] == 200


def test_each_stage_of_the_schema_has_its_columns() -> None:
    assert list(SHOWN) == schema()["properties"]["stage"]["enum"]


def test_what_a_stage_is_measured_against() -> None:
    apart = records.performance(0.5, 0.6)
    assert value(records.made(reference=apart), "asr_base") == 0.6
    assert value(records.made(stage="training time", reference=apart), "ca_base") == 0.5
    for stage in ("repair", "inputs"):
        assert value(records.made(stage=stage), "asr_base") == 0.99


def test_with_the_budget_auto_after_is_after_what_the_defense_flags() -> None:
    own = {**records.decision(0.1, 0.25), "signed": 0.7}
    data = records.made(config={"budget": "auto"}, after=None, decision=own)
    data["derived"] = {"defense_effectiveness_rating": None, "signed": None}
    assert (value(data, "asr_after"), value(data, "signed")) == (0.25, 0.7)
    fixed = records.made(decision=own)
    assert (value(fixed, "asr_after"), value(fixed, "flagged_asr_after")) == (0.02, 0.25)
