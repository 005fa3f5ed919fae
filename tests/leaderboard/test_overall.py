from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import leaderboard
from bdbench.leaderboard import intervals, overview
from bdbench.leaderboard.overall import Overall, overall, resampled
from bdbench.leaderboard.summary import BySeed, summarise
from tests.records import attack, defense, keep, made


def rows(name: str, against: dict[str, list[float]], **changes: Any) -> list[dict[str, Any]]:
    """The records of a defense, with the ASR after of each attack by seed."""
    return [
        made(seed, asr=asr, parts={**attack(other), **defense(name)}, **changes)
        for other, asrs in against.items()
        for seed, asr in enumerate(asrs)
    ]


def over_all(folder: Path, *records: dict[str, Any]) -> dict[str, Overall]:
    """By defense and stage."""
    frame = leaderboard.load(keep(folder, *records))
    table, by_seed = summarise(frame), BySeed.of(frame)
    found = overall(table, by_seed.values, by_seed.counts)
    return {f"{table['defense'][one.row]}, {table['stage'][one.row]}": one for one in found}


def test_the_mean_and_the_worst_by_hand(tmp_path: Path) -> None:
    found = over_all(tmp_path, *rows("a", {"one": [0.1, 0.2, 0.3], "two": [0.5, 0.6, 0.7]}, ca=0.94))
    (a,) = found.values()
    assert (a.attacks, a.seeds) == (2, 3)
    assert a.mean_asr.value == pytest.approx(0.4) and a.worst_asr.value == pytest.approx(0.6)
    assert a.mean_ca_cost.value == pytest.approx(0.02)
    # By seed the means over attacks are .3, .4, .5.
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert a.mean_asr.high - a.mean_asr.value == pytest.approx(half, rel=0.02)


def test_seeds_are_drawn_jointly() -> None:
    together = np.array([[0.1, 0.5, 0.9], [0.1, 0.5, 0.9]])
    opposed = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]])
    wide, none = resampled(together, "mean", 0.0), resampled(opposed, "mean", 0.0)
    assert wide.low == 0.0 and none.low == pytest.approx(none.value)
    assert resampled(opposed, "worst", 0.0).high > 0.55
    assert resampled(together, "mean", 0.0) == wide


def test_the_examples_keep_it_from_being_too_sure() -> None:
    certain = resampled(np.zeros((2, 4)), "mean", 0.03)
    assert (certain.value, certain.low, certain.high) == (0.0, 0.0, 0.03)
    assert np.isnan(resampled(np.zeros((2, 2)), "mean", 0.03).high)


def test_only_those_that_ran_on_all_attacks_that_work(tmp_path: Path) -> None:
    both = {"one": [0.1] * 3, "two": [0.2] * 3}
    weak = [made(s, before=(0.96, 0.2), asr=0.9, parts={**attack("weak"), **defense("a")}) for s in range(3)]
    found = over_all(tmp_path, *rows("a", both), *rows("b", {"one": [0.0] * 3}), *weak)
    assert found["a, training set"].mean_asr.value == pytest.approx(0.15)
    b = found["b, training set"]
    assert b.missing and np.isnan(b.mean_asr.value)
    leaderboard.build(tmp_path)
    readme = (tmp_path / "README.md").read_text().split("## Overall: ")[1]
    assert "b at budget 10 % is left out: not against two" in readme and "weak" not in readme
    assert readme in (tmp_path / "README.md").read_text() and overview.NOTE in readme


def test_an_attack_of_another_stage_is_asked_of_all(tmp_path: Path) -> None:
    repair = rows("r", {"one": [0.1] * 3, "two": [0.1] * 3}, stage="repair")
    found = over_all(tmp_path, *rows("a", {"one": [0.0] * 3}), *repair)
    assert not found["r, repair"].missing and found["a, training set"].missing
    assert set(found) == {"r, repair", "a, training set"}


def test_shared_seeds_alone_count(tmp_path: Path) -> None:
    found = over_all(tmp_path, *rows("a", {"one": [0.0, 0.0, 0.0, 0.9], "two": [0.0] * 3}))
    (a,) = found.values()
    assert a.seeds == 3 and a.mean_asr.value == 0.0
    # Both attacks are tried on the same test images: two say no more of them than one.
    assert a.mean_asr.high == pytest.approx(intervals.reach(0.0, 3 * 360))


def test_other_data_are_another_ground(tmp_path: Path) -> None:
    here = rows("a", {"one": [0.1] * 3})
    there = rows("a", {"two": [0.3] * 3}, facts={"source": "b" * 32})
    frame = leaderboard.load(keep(tmp_path, *here, *there))
    by_seed = BySeed.of(frame)
    found = overall(summarise(frame), by_seed.values, by_seed.counts)
    assert [one.mean_asr.value for one in found] == pytest.approx([0.1, 0.3])


def test_whether_an_attack_works_is_asked_once_of_all(tmp_path: Path) -> None:
    """One seed of a victim that learnt it does not oblige a defense whose three victims, in part, did not."""
    both = {"x": [0.1] * 3, "y": [0.1] * 3}
    learnt = rows("one", {"x": [0.1], "y": [0.1]})
    unsure = [
        made(seed, before=(0.96, before), asr=0.1, parts={**attack("x"), **defense("three")})
        for seed, before in enumerate((0.95, 0.95, 0.3))
    ]
    found = over_all(tmp_path / "a", *learnt, *unsure, *rows("three", {"y": [0.1] * 3}))
    assert found["three, training set"].attacks == 1 and not found["three, training set"].missing
    # Of rows with as many seeds half say that it works: then it counts for all, and nobody is left out who ran on it.
    found = over_all(tmp_path / "b", *rows("two", both), *unsure, *rows("three", {"y": [0.1] * 3}))
    assert [one.attacks for one in found.values()] == [2, 2] and not any(one.missing for one in found.values())


def test_the_worst_attack_is_named_with_its_own_doubt(tmp_path: Path) -> None:
    frame = leaderboard.load(keep(tmp_path, *rows("a", {"one": [0.0] * 3, "two": [0.5] * 3})))
    table, by_seed = summarise(frame), BySeed.of(frame)
    (a,) = overall(table, by_seed.values, by_seed.counts)
    assert a.worst_asr.value == 0.5 and table["attack"][a.worst_attack] == "two"
    assert a.worst_asr.high - 0.5 == pytest.approx(intervals.reach(0.5, 3 * 360))


def test_those_that_leave_least_come_first_and_a_gain_in_accuracy_is_below_nought(tmp_path: Path) -> None:
    leaves_more, leaves_less = rows("more", {"one": [0.4] * 3}, ca=0.98), rows("less", {"one": [0.15] * 3}, ca=0.98)
    found = over_all(tmp_path, *leaves_more, *leaves_less)
    assert [one.mean_asr.value for one in found.values()] == pytest.approx([0.15, 0.4])
    cost = found["less, training set"].mean_ca_cost
    assert cost.value == pytest.approx(-0.02) and cost.low < -0.02 < cost.high


def test_the_doubt_of_a_mean_over_attacks_is_the_mean_of_theirs(tmp_path: Path) -> None:
    alike = {"one": [0.1] * 3}, {"two": [0.1] * 3}
    found = over_all(tmp_path, *rows("a", alike[0], ca=0.95), *rows("a", alike[1], ca=0.5))
    cost = found["a, training set"].mean_ca_cost

    def reach(after: float) -> float:
        return float(np.hypot(intervals.reach(0.96, 3 * 400), intervals.reach(after, 3 * 400)))

    assert cost.high - cost.value == pytest.approx((reach(0.95) + reach(0.5)) / 2)
