"""Each number of a table: from its own place in a record, a share of its own examples, and better one way."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bdbench.leaderboard import columns, views
from bdbench.leaderboard.columns import NUMBERS, pools, value
from tests import records

# What a number is a share of, and which way is better: as their definitions say, written out a second time.
SHARES = {
    "ca_before": ("test", 0), "asr_before": ("attacked", 0), "ra_before": ("attacked", 0),
    "asr_floor": ("attacked", 0), "worst_goal_before": ("a goal", 0), "bystanders_before": ("bystanders", 0),
    "spill_before": ("bystanders", 0), "psnr": ("", 0), "ssim": ("", 0), "largest_change": ("", 0),
    "ca_reference": ("test", 0), "asr_reference": ("attacked", 0), "ca_base": ("test", 0), "asr_base": ("attacked", 0),
    "auroc": ("ranking", 1), "ap": ("ranking", 1), "tpr_at_budget": ("poisons", 1), "fpr_at_budget": ("clean", -1),
    "tpr_at_1pct_fpr": ("poisons", 1), "cover_flagged": ("covers", 0), "ca_after": ("test", 1),
    "asr_after": ("attacked", -1), "ra_after": ("attacked", 1), "worst_goal_after": ("a goal", -1),
    "bystanders_after": ("bystanders", 1), "spill_after": ("bystanders", -1), "ca_cost": ("", 0), "der": ("", 1),
    "signed": ("", 1), "flagged": ("train", 0), "flagged_tpr": ("poisons", 1), "flagged_fpr": ("clean", -1),
    "flagged_precision": ("flagged", 1), "flagged_covers": ("covers", 0), "flagged_ca_after": ("test", 1),
    "flagged_asr_after": ("attacked", -1), "flagged_signed": ("", 1), "input_auroc": ("inputs", 1),
    "input_auroc_obeyed": ("obeyed", 1), "input_tpr_at_1pct_fpr": ("attacked", 1),
    "input_tpr_at_5pct_fpr": ("attacked", 1), "input_tpr": ("attacked", 1), "input_fpr": ("test", -1),
    "input_bystander_fpr": ("bystanders", -1),
}  # fmt: skip


def test_what_each_number_is_a_share_of_and_which_way_is_better() -> None:
    assert {name: (number.pool, number.better) for name, number in NUMBERS.items()} == SHARES
    # A rating falls by half of what is obeyed afterwards and rises by half of what is right, and may be below 0.
    for name, after in (("signed", ""), ("flagged_signed", "flagged_")):
        terms = {"asr_base": 0.5, f"{after}asr_after": -0.5, "ca_base": -0.5, f"{after}ca_after": 0.5}
        assert NUMBERS[name].terms == terms and NUMBERS[name].within == (-0.5, 1.5)


def _apart(names: Iterable[str]) -> dict[str, float]:
    """Numbers by name, each another."""
    return {name: round(0.01 * place, 2) for place, name in enumerate(names, 1)}


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "detection",
            {
                "auroc": "auroc", "ap": "average_precision", "tpr_at_budget": "tpr_at_budget",
                "fpr_at_budget": "fpr_at_budget", "tpr_at_1pct_fpr": "tpr_at_1pct_fpr",
                "cover_flagged": "cover_flagged",
            },
        ),
        (
            "inputs",
            {
                "input_auroc": "auroc", "input_auroc_obeyed": "auroc_obeyed",
                "input_tpr_at_1pct_fpr": "tpr_at_1pct_fpr", "input_tpr_at_5pct_fpr": "tpr_at_5pct_fpr",
                "input_tpr": "tpr", "input_fpr": "fpr", "input_bystander_fpr": "bystander_fpr",
            },
        ),
        (
            "after",
            {
                "ca_after": "clean_accuracy", "asr_after": "attack_success_rate", "ra_after": "robust_accuracy",
                "worst_goal_after": "worst_goal", "bystanders_after": "bystander_accuracy", "spill_after": "spill",
            },
        ),
    ],
)  # fmt: skip
def test_each_number_has_its_own_place(part: str, names: dict[str, str]) -> None:
    data = records.made(stage="inputs" if part == "inputs" else "training set")
    data[part] = _apart({"detection": records.detection(), "inputs": records.inputs(0.9), "after": data["after"]}[part])
    assert {name: value(data, name) for name in names} == {name: data[part][own] for name, own in names.items()}


def test_with_the_budget_auto_all_that_is_after_is_after_what_the_defense_flags() -> None:
    own = records.decision(0.1, 0.25)
    own["after"] = _apart(own["after"])
    data = records.made(config={"budget": "auto"}, after=None, decision=own)
    for name in ("ca_after", "asr_after", "ra_after", "spill_after"):
        assert value(data, name) == own["after"][NUMBERS[name].path.partition(".")[2]]


def test_those_that_obey_are_no_more_than_those_that_they_are_told_from() -> None:
    facts = {"attacked": 720, "test": 400}
    assert pools(records.made(facts=facts, before=(0.9, 0.5)))["obeyed"] == 360
    assert pools(records.made(facts=facts, before=(0.9, 0.9)))["obeyed"] == 400


def test_tables_are_sorted_by_what_one_looks_for_first() -> None:
    """The most of what is better so, of what an attack keeps and of what a detector catches; the least of costs."""
    for name in ("auroc", "ca_after", "ca_before", "control_ca", "bystanders_before", "psnr", "ssim", "model_auroc",
                 "detections", "hits", "seeds"):  # fmt: skip
        assert views.better(name) == 1, name
    for name in ("asr_after", "flagged_fpr", "input_fpr", "rank", "defense_seconds", "ca_cost", "spill_after"):
        assert views.better(name) == -1, name
    assert all(name in columns.HEADINGS for name in views._MOST_FIRST)
