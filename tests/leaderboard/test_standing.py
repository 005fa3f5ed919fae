"""Who is better than whom: hand-checked tests, and the boards they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bdbench.leaderboard import intervals, load, standing, summarise
from tests.records import attack, decision, defense, keep, made, performance


def table_of(folder: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    """The table of records, by defense."""
    return summarise(load(keep(folder, *rows))).set_index("defense")


def rows(name: str, asr: list[float], **changes: Any) -> list[dict[str, Any]]:
    """The records of a defense with those ASRs after, by seed."""
    return [made(seed, asr=a, parts=defense(name), **changes) for seed, a in enumerate(asr)]


def test_the_paired_test_is_scipys() -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 0.1, (3, 6))
    # So many examples that the seeds alone decide.
    n, mean, p = standing.paired({"asr_after": x}, {"asr_after": np.full((3, 6), 1e12)}, "asr_after")
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert p[i, j] == p[j, i] == pytest.approx(ttest_rel(x[i], x[j]).pvalue, rel=1e-9)
        assert mean[i, j] == -mean[j, i] == pytest.approx((x[i] - x[j]).mean())
    assert (n == 6).all() and p[0, 0] == 1.0


def test_seeds_that_agree_leave_the_doubt_of_the_examples() -> None:
    from scipy.stats import norm

    x = np.array([[0.0, 0.0, 0.0], [0.01, 0.01, 0.01]])
    counts = np.full((2, 3), 50.0)
    _, _, p = standing.paired({"asr_after": x}, {"asr_after": counts}, "asr_after")
    error = np.hypot(*intervals.reach([0.0, 0.01], 150)) / intervals.Z
    assert p[0, 1] == pytest.approx(2 * norm.sf(0.01 / error), rel=1e-9) and p[0, 1] > 0.05
    _, _, p = standing.paired({"asr_after": x}, {"asr_after": 1e6 * counts}, "asr_after")
    assert p[0, 1] < 1e-6


def test_pairs_are_of_the_seeds_that_both_have() -> None:
    x = np.array([[0.1, 0.2, 0.3, np.nan], [np.nan, 0.25, 0.35, 0.9]])
    n, mean, p = standing.paired({"ap": x}, {"ap": np.ones((2, 4))}, "ap")
    assert n[0, 1] == 2 and mean[0, 1] == pytest.approx(-0.05) and np.isfinite(p[0, 1])
    _, told = standing.beats({"ap": x}, {"ap": np.ones((2, 4))}, "ap")
    assert not told.any()


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .2 times 4, 3, 2, 1, and never less than the one before.
    assert standing.holm(np.array([0.03, 0.01, 0.2, 0.02])) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert standing.holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert len(standing.holm(np.zeros(0))) == 0


def test_the_more_rivals_the_less_is_sure() -> None:
    # t = .15 / (.05 / sqrt(3)), p = .035; three pairs ask for .017.
    x = np.array([[0.1, 0.2, 0.3], [0.2, 0.4, 0.45], [0.0, 0.9, 0.3]])
    counts = np.full((3, 3), 1e9)
    two, _ = standing.beats({"asr_after": x[:2]}, {"asr_after": counts[:2]}, "asr_after")
    assert two.tolist() == [[False, True], [False, False]]
    three, told = standing.beats({"asr_after": x}, {"asr_after": counts}, "asr_after")
    assert not three.any() and told.sum() == 6


def test_ranks_are_told_apart_only_by_what_differs_enough(tmp_path: Path) -> None:
    table = table_of(
        tmp_path, *rows("a", [0.01, 0.02, 0.03]), *rows("b", [0.5, 0.52, 0.51]), *rows("c", [0.51, 0.51, 0.52])
    )
    assert table["rank"].to_dict() == {"a": "1", "b": "2", "c": "2"}
    assert table["beaten_by"].to_dict() == {"a": 0, "b": 1, "c": 1}
    assert {name: "asr_after" in best.split() for name, best in table["best"].items()} == {
        "a": True, "b": False, "c": False,
    }  # fmt: skip


def test_what_wobbles_is_not_the_best(tmp_path: Path) -> None:
    # The means are .40 and .51, and the interval of the first holds the second's.
    table = table_of(tmp_path, *rows("a", [0.0, 0.4, 0.8]), *rows("b", [0.5, 0.51, 0.52]))
    assert set(table["rank"]) == {standing.NOT_TOLD_APART} and not any("asr_after" in b for b in table["best"])


def test_seeds_without_variance_are_not_told_apart_by_that(tmp_path: Path) -> None:
    few = {"attacked": 20, "test": 20}
    table = table_of(tmp_path, *rows("a", [0.0] * 3, facts=few), *rows("b", [0.05] * 3, facts=few))
    assert set(table["rank"]) == {standing.NOT_TOLD_APART} and set(table["best"]) == {""}
    wide = table.loc["a"]
    assert wide["asr_after_low"] == 0 and wide["asr_after_high"] == pytest.approx(intervals.reach(0.0, 60))


def test_a_rival_without_a_number_takes_no_bold_away(tmp_path: Path) -> None:
    own = {name: decision(0.05, asr) for name, asr in (("a", 0.01), ("b", 0.8))}
    table = table_of(
        tmp_path,
        *rows("a", [0.01, 0.02, 0.03], decision=own["a"]),
        *rows("b", [0.5, 0.52, 0.51], decision=own["b"]),
        *rows("c", [0.9, 0.91, 0.9]),
        *rows("d", [0.9] * 3, ca=0.95, after=None, derived={"defense_effectiveness_rating": None, "signed": None}),
    )
    assert {"flagged_asr_after", "asr_after", "signed"} <= set(table["best"]["a"].split())
    assert np.isnan(table["flagged_asr_after"]["c"]) and table["best"]["c"] == ""
    assert table["rank"].to_dict() == {"a": "1", "b": "2", "c": "3", "d": ""}


def test_fewer_than_three_shared_seeds_decide_nothing(tmp_path: Path) -> None:
    table = table_of(tmp_path, *rows("a", [0.01] * 5), *rows("b", [0.9] * 2))
    assert set(table["rank"]) == {""} and set(table["best"]) == {""}
    alone = table_of(tmp_path / "alone", *rows("a", [0.01] * 5))
    assert alone["rank"]["a"] == "" and alone["best"]["a"] == ""


def test_those_told_more_are_no_rivals_of_those_told_nothing(tmp_path: Path) -> None:
    told = rows("told", [0.0] * 3, oracles=["poison_rate"])
    table = table_of(tmp_path, *told, *rows("a", [0.1, 0.11, 0.12]), *rows("b", [0.9, 0.91, 0.9]))
    assert table["access"].to_dict() == {"told": "training set, poison rate", "a": "training set", "b": "training set"}
    assert table["rank"].to_dict() == {"told": "", "a": "1", "b": "2"}


def test_stages_and_other_parameters_of_the_attack_are_apart(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        *rows("a", [0.5] * 3),
        *rows("repairs", [0.0] * 3, stage="repair"),
        *[made(s, asr=0.9, parts={**attack("badnets", rate=0.01), **defense("other")}) for s in range(3)],
    )
    assert set(table["rank"]) == {""}


def test_where_the_attack_does_not_work_nobody_is_ranked(tmp_path: Path) -> None:
    weak = {"before": (0.96, 0.4), "parts": None}
    table = table_of(
        tmp_path,
        *[made(s, asr=a, **{**weak, "parts": defense(n)}) for n, a in (("a", 0.0), ("b", 0.4)) for s in range(3)],
    )
    assert set(table["works"]) == {"no"} and set(table["rank"]) == {""} and set(table["best"]) == {""}
    # A mean above .5 is not enough: the interval reaches down.
    table = table_of(tmp_path / "unsure", *[made(s, before=(0.96, a)) for s, a in enumerate([0.2, 0.9, 0.9])])
    assert table["asr_before"]["random"] > 0.5 and set(table["works"]) == {"no"}
    table = table_of(tmp_path / "works", *rows("a", [0.1] * 3), made(control=True, parts=defense("b")))
    assert table["works"].to_dict() == {"a": "yes", "b": ""}


def test_what_a_stage_is_measured_against_ranks_nobody(tmp_path: Path) -> None:
    """Two machines' references differ by chance; what either defense left is the same."""
    one, other = (rows(name, [0.0] * 3, before=(0.96, before)) for name, before in (("a", 0.98), ("b", 0.9)))
    table = table_of(tmp_path, *one, *other)
    assert table["signed"].to_dict() == pytest.approx({"a": 0.985, "b": 0.945})
    assert set(table["rank"]) == {standing.NOT_TOLD_APART}
    assert not any({"der", "signed"} & set(best.split()) for best in table["best"])


def test_seeds_of_two_poisoned_sets_are_not_paired(tmp_path: Path) -> None:
    """An attack that was crafted on two machines: the same seeds, and other poisons."""

    def crafted(name: str, machine: str, asr: float) -> list[dict[str, Any]]:
        facts = {seed: {"poisoned": f"{machine}{seed}" * 16} for seed in range(3)}
        return [made(seed, asr=asr, parts=defense(name), facts=facts[seed]) for seed in range(3)]

    table = table_of(tmp_path, *crafted("a", "a", 0.0), *crafted("b", "b", 0.9), *crafted("c", "a", 0.9))
    # With b nobody shares three seeds; a beats c, and not every rival.
    assert table["rank"].to_dict() == {"a": standing.NOT_TOLD_APART, "b": "", "c": "2"}
    x = np.array([[0.0, 0.0, 0.0], [0.9, 0.8, 0.9]])
    n, _, p = standing.paired({"ap": x}, {"ap": np.full((2, 3), 360.0)}, "ap", np.array([[0, 1, 2], [0, 1, 7]]))
    assert n[0, 1] == 2 and np.isfinite(p[0, 1])


@pytest.mark.parametrize(
    "other", [{"config": {"budget": 0.2}}, {"config": {"reserve": 0.1}}, {"facts": {"challenge": "another"}}]
)
def test_of_another_budget_reserve_or_challenge_nobody_is_a_rival(tmp_path: Path, other: dict[str, Any]) -> None:
    table = table_of(tmp_path, *rows("a", [0.01, 0.02, 0.01]), *rows("b", [0.9, 0.91, 0.9], **other))
    assert set(table["rank"]) == {""} and set(table["best"]) == {""}
    alike = table_of(tmp_path / "alike", *rows("a", [0.01, 0.02, 0.01]), *rows("b", [0.9, 0.91, 0.9]))
    assert alike["rank"].to_dict() == {"a": "1", "b": "2"}


def test_what_bystanders_suffer_makes_nobody_the_best(tmp_path: Path) -> None:
    def suffering(spill: float, accuracy: float) -> dict[str, Any]:
        return {**performance(0.95, 0.02), "spill": spill, "bystander_accuracy": accuracy}

    facts = {"bystanders": 1000}
    table = table_of(
        tmp_path,
        *rows("a", [0.02] * 3, facts=facts, after=suffering(0.01, 0.95)),
        *rows("b", [0.02] * 3, facts=facts, after=suffering(0.5, 0.5)),
    )
    assert {"spill_after", "bystanders_after"} <= set(table["best"]["a"].split())
    assert not {"spill_after", "bystanders_after"} & set(table["best"]["b"].split())


def test_a_defense_without_a_rating_has_no_rank_whatever_else_is_known_of_it(tmp_path: Path) -> None:
    derived = {"defense_effectiveness_rating": None, "signed": None}
    table = table_of(tmp_path, *rows("a", [0.01] * 3), *rows("b", [0.5] * 3), *rows("c", [0.0] * 3, derived=derived))
    assert table["rank"].to_dict() == {"a": "1", "b": "2", "c": ""}


def test_on_clean_sets_what_a_defense_costs_is_compared_as_well(tmp_path: Path) -> None:
    clean = [made(s, control=True, ca=ca, parts=defense(n)) for n, ca in (("a", 0.95), ("b", 0.5)) for s in range(3)]
    table = table_of(tmp_path, *clean)
    assert "ca_after" in table["best"]["a"].split() and table["best"]["b"] == "" and set(table["works"]) == {""}
