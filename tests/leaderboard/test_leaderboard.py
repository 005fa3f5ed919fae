from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bdbench.leaderboard import intervals, views
from bdbench.leaderboard.columns import NUMBERS, pools
from tests.boards import build, one_row, readme, table_of
from tests.records import attack, decision, defense, inputs, keep, made, performance, verdict


def test_means_and_intervals_by_hand(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, auroc=a) for s, a in enumerate([0.7, 0.8, 0.9])])
    assert row["seeds"] == 3 and row["auroc"] == pytest.approx(0.8)
    # Student's t with 2 degrees of freedom: 4.302653; the standard error is 0.1 / sqrt(3).
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert row["auroc_low"] == pytest.approx(0.8 - half, rel=1e-5) and row["auroc_high"] == 1.0
    assert "0.800 [0.552, 1.000]" in readme(tmp_path)


def test_no_interval_is_narrower_than_the_examples_allow_or_reaches_beyond_what_there_can_be(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, asr=a, auroc=1.0) for s, a in enumerate([0.0, 0.0, 0.0])])
    assert row["asr_after"] == row["asr_after_low"] == 0
    assert row["asr_after_high"] == pytest.approx(intervals.reach(0.0, 3 * 360), rel=1e-4)
    assert row["auroc_low"] == pytest.approx(1 - intervals.reach(1.0, 3 * 50), rel=1e-4)
    assert "0.0 [0.0, 0.4]" in readme(tmp_path)
    wide = one_row(tmp_path / "wide", *[made(s, asr=a) for s, a in enumerate([0.0, 1.0, 1.0])])
    assert (wide["asr_after_low"], wide["asr_after_high"]) == (0, 1) and wide["worst_asr_after"] == 1
    assert "66.7 [0.0, 100.0]" in readme(tmp_path / "wide")
    for name, number in NUMBERS.items():
        for table in (row, wide):
            if not np.isnan(table[name]):
                low, high = number.within
                assert low <= table[f"{name}_low"] <= table[name] <= table[f"{name}_high"] <= high


def test_the_worst_seed_is_beside_the_mean(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, asr=a) for s, a in enumerate([0.01, 0.02, 0.93])])
    assert row["asr_after"] == pytest.approx(0.32) and row["worst_asr_after"] == 0.93
    assert "worst seed's ASR after" in readme(tmp_path)


def test_what_does_not_apply_is_empty_never_zero(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, auroc=None) for s in range(2)])
    assert all(np.isnan(row[name]) for name in ("auroc", "auroc_low", "auroc_high"))
    one = one_row(tmp_path / "one", made(auroc=0.7))
    assert one["auroc"] == 0.7 and np.isnan(one["auroc_low"]) and np.isnan(one["asr_after_low"])
    assert "| 0.700 |" in re.sub(" +", " ", readme(tmp_path / "one"))


def test_what_a_removal_did_is_empty_where_none_was_asked_for(tmp_path: Path) -> None:
    scored = {"after": None, "reference": None, "derived": {"defense_effectiveness_rating": None, "signed": None}}
    only = [made(s, config={"budget": 0.0}, **scored) for s in range(2)]
    for data in only:
        data["detection"] |= {"budget": 0.0, "tpr_at_budget": None, "fpr_at_budget": None}
    row = one_row(tmp_path, *only)
    empty = {name for name in NUMBERS if np.isnan(row[name])}
    assert {"ca_after", "asr_after", "der", "signed", "tpr_at_budget", "ca_reference", "ca_cost"} <= empty
    assert not empty & {"ca_before", "asr_before", "auroc", "ap", "tpr_at_1pct_fpr"}
    table_of(tmp_path, *[made(s, parts=defense("spectral")) for s in range(2)])
    alone, removed, _ = readme(tmp_path).split("\n### ")[1:]
    heading = alone.splitlines()[2]
    assert "budget 0 %" in alone and "after" not in heading and "reference" not in heading
    assert "ASR after by attack" in removed and "nan" not in alone + removed


def test_records_of_other_data_are_another_row(tmp_path: Path) -> None:
    folders = {"dataset": {"name": "imagefolder", "subset": None}}
    facts = ({"source": "a" * 32, "classes": 10}, {"source": "b" * 32, "classes": 43})
    table = table_of(
        tmp_path, *[made(s, auroc=0.5 + 0.4 * i, parts=folders, facts=f) for i, f in enumerate(facts) for s in range(2)]
    )
    assert table["auroc"].tolist() == pytest.approx([0.5, 0.9]) and table["seeds"].tolist() == [2, 2]
    assert "### imagefolder data=aaaaaaaa, convnet" in readme(tmp_path)
    assert "### imagefolder data=bbbbbbbb, convnet" in readme(tmp_path)


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"recipe": {"epochs": 3}}, r"convnet recipe=\w{8}"),
        ({"code": {"model": "m1" * 8, "attack": "a1" * 8, "defense": "other" * 3}}, r"random code=otherot"),
        ({"code": {"model": "m1" * 8, "attack": "new" * 5, "defense": "d1" * 8}}, r"badnets rate=0.05 code=newnewne"),
        ({"code": {"model": "new" * 5, "attack": "a1" * 8, "defense": "d1" * 8}}, r"convnet code=newnewne"),
    ],
)
def test_no_row_averages_two_recipes_or_codes(tmp_path: Path, config: dict[str, Any], label: str) -> None:
    usual = [made(s, auroc=0.5) for s in range(3)]
    others = [made(s, auroc=0.9, config=config) for s in range(3)]
    table = table_of(tmp_path, *usual, *others)
    assert sorted(table["auroc"]) == pytest.approx([0.5, 0.9]) and table["seeds"].tolist() == [3, 3]
    assert table["made_of"].nunique() == 2
    assert re.search(label, readme(tmp_path))
    table_of(tmp_path / "alone", *usual)
    assert not re.search("(code|recipe|data|files)=", readme(tmp_path / "alone").split("### ")[1])


def test_files_of_other_contents_are_told_apart_by_whose_they_are(tmp_path: Path) -> None:
    pattern = {"attack": {"name": "blend", "rate": 0.05, "pattern": "a.png"}}
    several = [made(s, parts=pattern, config={"files": {"a.png": hash}}) for hash in ("x1", "x2") for s in range(2)]
    control = [made(s, control=True) for s in range(2)]
    table = table_of(tmp_path, *several, *control)
    assert len(table) == 3 and re.search(r"blend rate=0.05 files=\w{8}", readme(tmp_path))
    # A file of the attack makes no other setting, so that both have the control.
    assert table["control_ca_cost"].notna().all()
    weights = {"defense": {"name": "reads", "folder": "models"}}
    files = [made(s, parts=weights, config={"files": {"models/w": hash}}) for hash in ("x1", "x2") for s in range(2)]
    assert len(table_of(tmp_path / "defense", *files)) == 2
    assert re.search(r"reads files=\w{8}", readme(tmp_path / "defense"))


def test_one_mitigation_under_two_budgets_is_one_row(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, stage="repair", config={"budget": b}) for s, b in enumerate([0.1, 0.2, None])])
    assert row["seeds"] == 3 and pd.isna(row["budget"])
    detectors = table_of(tmp_path / "budgets", *[made(0, config={"budget": b}) for b in (0.1, 0.2, "auto")])
    assert sorted(detectors["budget"]) == ["0.1", "0.2", "auto"]


def test_rows_of_one_defense_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    table_of(tmp_path, *[made(parts=defense("random", models=m, alpha=0.2)) for m in (10, 20)])
    text, _ = readme(tmp_path).split("## Which variant it is")
    assert "random models=10 |" in text and "random models=20 |" in text and "alpha" not in text
    assert "badnets rate=0.05 |" in text


def test_the_control_tells_what_the_same_defense_costs(tmp_path: Path) -> None:
    clean = [made(s, control=True, before=(0.9, None), ca=0.9 - drop) for s, drop in enumerate([0.02, 0.04])]
    # What no trigger is known of is no control for that.
    semantic = [made(s, before=(0.9, None), asr=None, ca=0.1, parts=attack("by-nature")) for s in range(2)]
    table = table_of(tmp_path, *[made(s) for s in range(2)], *clean, *semantic).set_index("attack")
    assert table["control_ca_cost"].tolist() == [pytest.approx(0.03)] * 3
    half = 12.7062 * np.std([0.02, 0.04], ddof=1) / np.sqrt(2)
    assert table["control_ca_cost_high"].tolist() == [pytest.approx(0.03 + half, rel=1e-4)] * 3
    assert table["rank"].isna()["none"] and "3.0 ± 12.7" in readme(tmp_path)


def test_removal_is_measured_against_the_reference_and_repair_against_the_victim(tmp_path: Path) -> None:
    other = performance(0.8, 0.7)
    removal = one_row(tmp_path / "removal", made(ca=0.75, reference=other))
    assert removal["ca_cost"] == pytest.approx(0.05) and removal["asr_reference"] == 0.7
    repair = one_row(tmp_path / "repair", made(stage="repair", ca=0.75))
    assert repair["ca_cost"] == pytest.approx(0.21) and np.isnan(repair["asr_reference"])


def test_a_decision_has_columns_of_its_own(tmp_path: Path) -> None:
    own = [made(s, decision=decision(0.06, 0.4), parts=defense("decides")) for s in range(3)]
    clean = [made(s, control=True, decision=decision(0.02, None, None), parts=defense("decides")) for s in range(3)]
    table = table_of(tmp_path, *own, *clean, *[made(s) for s in range(3)]).set_index(["attack", "defense"])
    row, without = table.loc["badnets", "decides"], table.loc["badnets", "random"]
    assert (row["flagged"], row["flagged_tpr"], row["flagged_asr_after"]) == (0.06, 0.9, 0.4)
    assert row["asr_after"] == 0.02 and row["control_flagged"] == pytest.approx(0.02)
    assert without[["flagged", "flagged_tpr", "flagged_fpr", "flagged_asr_after"]].isna().all()
    assert "flags precision" in readme(tmp_path)
    table_of(tmp_path / "none", made())
    assert "flags precision" not in readme(tmp_path / "none")


def test_alarms_are_k_of_n_with_wilsons_interval(tmp_path: Path) -> None:
    values = [0.01, 0.2, 0.3, None]
    row = one_row(tmp_path, *[made(s, p_value=p) for s, p in enumerate(values)])
    assert (row["alarms"], row["alarms_of"]) == (1, 3)
    assert "1/3 [6, 79]" in readme(tmp_path)
    repair = one_row(tmp_path / "repair", *[made(s, stage="repair", p_value=0.01) for s in range(4)])
    assert (repair["alarms"], repair["alarms_of"]) == (4, 4)
    table_of(tmp_path / "without", made())
    assert "| p < 0.05" not in readme(tmp_path / "without")


def test_there_is_a_table_for_each_stage_with_its_columns(tmp_path: Path) -> None:
    table_of(
        tmp_path,
        *[made(s) for s in range(2)],
        *[made(s, stage="training time", parts=defense("abl")) for s in range(2)],
        *[made(s, stage="repair", parts=defense("ft"), oracles=["clean_set"]) for s in range(2)],
        *[made(s, stage="inputs", parts=defense("strip"), inputs=inputs(0.8)) for s in range(2)],
        *[made(s, stage="model", parts=defense("nc"), verdict=verdict(2.0, True, True)) for s in range(2)],
    )
    parts = dict(part.split("\n", 1) for part in readme(tmp_path).split("\n## ")[1:])
    assert list(parts)[:5] == ["Training set", "Training time", "Repair", "Inputs", "Model"]
    heading = {stage: text.split("\n\n")[1].splitlines()[0] for stage, text in list(parts.items())[:5]}
    assert "CA reference" in heading["Training set"] and "CA reference" in heading["Training time"]
    assert "CA reference" not in heading["Repair"] and "AUROC" not in heading["Repair"]
    assert "TPR at reserve's threshold" in heading["Inputs"] and "seconds an input" in heading["Inputs"]
    assert "detections" in heading["Model"] and "ASR after" not in heading["Model"]
    assert "| clean set" in parts["Repair"]
    assert (tmp_path / "index.html").read_text().count('<table class="cells">') == 5 + 1


def test_verdicts_are_counted_against_clean_models(tmp_path: Path) -> None:
    attacked = [
        made(s, stage="model", verdict=verdict(score, score > 2, hit))
        for s, (score, hit) in enumerate([(3.0, True), (1.5, None), (4.0, False), (2.5, True)])
    ]
    clean = [made(s, stage="model", control=True, verdict=verdict(v, v > 2)) for s, v in enumerate([1.0, 2.5, 0.5])]
    other = [
        made(s, stage="model", control=True, verdict=verdict(9.0, True), facts={"source": "b" * 32}) for s in range(3)
    ]
    table = table_of(tmp_path, *attacked, *clean, *other)
    row = table[table["attack"] == "badnets"].iloc[0]
    # Pairs won: 3 of 3, 2, 3, and 2 with one tie.
    assert row["model_auroc"] == pytest.approx((3 + 2 + 3 + 2.5) / 12)
    low, high = intervals.wilson(10.5 / 12, 3)
    assert (row["model_auroc_low"], row["model_auroc_high"]) == pytest.approx((low, high), rel=1e-4)
    assert (row["detections"], row["detections_of"]) == (3, 4)
    assert (row["false_alarms"], row["false_alarms_of"]) == (1, 3)
    assert (row["hits"], row["hits_of"]) == (2, 4)
    assert "3/4 [30, 95]" in readme(tmp_path) and "1/3 [6, 79]" in readme(tmp_path)


def test_rows_in_which_the_attack_does_not_work_are_marked(tmp_path: Path) -> None:
    weak = [made(s, before=(0.9, 0.1), parts=attack("weak"), asr=0.1) for s in range(3)]
    table_of(tmp_path, *weak, *[made(s) for s in range(3)])
    of_weak = next(line for line in readme(tmp_path).splitlines() if line.startswith("| weak"))
    assert "*10.0 ± " in of_weak and "*" not in next(
        line for line in readme(tmp_path).splitlines() if line.startswith("| badnets")
    )
    page = (tmp_path / "index.html").read_text()
    # In the table of its stage, and in that of the attacks.
    assert page.count('class="cell fails"') == 2 and page.count('class="cell"') == 2


def test_an_attack_that_a_clean_model_obeys_as_well_does_not_work(tmp_path: Path) -> None:
    for name, floor in (("real", 0.1), ("adversarial", 0.9)):
        parts = {**attack(name), **defense("none")}
        shown = [
            made(s, stage="repair", before=(0.9, 0.92), parts=parts, floor=performance(0.9, floor)) for s in range(3)
        ]
        keep(tmp_path, *shown)
    build(tmp_path)
    table = pd.read_csv(tmp_path / "table.csv").set_index("attack")
    assert table["works"].to_dict() == {"adversarial": "no", "real": "yes"}
    assert table["asr_floor"]["adversarial"] == 0.9


def test_a_floor_that_one_seed_knows_counts(tmp_path: Path) -> None:
    parts = {**attack("obeyed"), **defense("none")}
    told = [
        made(s, stage="repair", before=(0.9, 0.99), parts=parts, floor=performance(0.9, 0.9999) if s == 0 else None)
        for s in range(3)
    ]
    assert one_row(tmp_path, *told)["works"] == "no"
    assert one_row(tmp_path / "without", *[{**one, "floor": None} for one in told])["works"] == "yes"


def test_a_precision_is_of_poisons_and_clean_images_and_covers_are_neither() -> None:
    """100 flagged: 80 covers, 10 poisons and 10 clean images."""
    facts = {"train": 1000, "poisons": 100, "covers": 100}
    told = {**decision(0.1, 0.0, tpr=0.1), "fpr": 10 / 800}
    assert pools(made(facts=facts, decision=told))["flagged"] == 20


def test_a_goal_is_one_of_those_that_there_are() -> None:
    before = {**performance(0.9, 0.9), "by_goal": {"0": 0.9, "any other": 0.8}, "worst_goal": 0.9}
    assert pools({**made(facts={"attacked": 720, "targets": [0]}), "before": before})["a goal"] == 360
    assert pools(made(facts={"attacked": 720, "targets": [0, 1, 2]}))["a goal"] == 240


def test_no_name_can_be_wrong_where_every_label_is_a_target_or_any_will_do(tmp_path: Path) -> None:
    for name, targets in (("all", list(range(10))), ("any", []), ("one", [0])):
        shown = verdict(3.0, True, name != "any")
        keep(
            tmp_path,
            *[made(s, stage="model", parts=attack(name), facts={"targets": targets}, verdict=shown) for s in range(3)],
        )
    build(tmp_path)
    table = pd.read_csv(tmp_path / "table.csv").set_index("attack")
    assert table["detections_of"].to_dict() == {"all": 3, "any": 3, "one": 3}
    assert table["hits_of"].to_dict() == {"all": 0, "any": 0, "one": 3} and table["hits"]["one"] == 3


def test_a_retraining_that_is_beside_the_numbers_after_is_not_among_the_costs(tmp_path: Path) -> None:
    seconds = {"data": 9.0, "victim": 4.0, "reference": 9.0, "score": 2.0, "retrain": 4.0, "retrain by decision": 3.0}
    cost = {"seconds": seconds, "models_trained": 12, "peak_memory_mb": 9.0}
    row = one_row(tmp_path, made(cost=cost))
    assert (row["defense_seconds"], row["times_victim"], row["models_trained"]) == (6.0, 1.5, 11)
    del seconds["retrain"]
    row = one_row(tmp_path / "auto", made(cost={**cost, "models_trained": 11}, config={"budget": "auto"}))
    assert (row["defense_seconds"], row["models_trained"]) == (5.0, 11)


def test_metrics_of_plugins_have_columns(tmp_path: Path) -> None:
    values = (1.0, 2.0, 6.0)
    told = [made(seed, extra={"depth": value, "never": None}) for seed, value in enumerate(values)]
    other = [made(seed, parts=defense("low-loss")) for seed in range(3)]
    table = table_of(tmp_path, *told, *other).set_index("defense")
    # Student's t with 2 degrees of freedom: 4.302653; the deviation is the square root of 7.
    half = 4.302653 * np.sqrt(7 / 3)
    row = table.loc["random"]
    assert row["extra: depth"] == pytest.approx(3.0) and np.isnan(table.loc["low-loss", "extra: depth"])
    assert (row["extra: depth_low"], row["extra: depth_high"]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    head, _, *lines = next(part for part in readme(tmp_path).split("\n\n") if part.startswith("| attack"))[:-1].split(
        "\n"
    )
    place = [cell.strip() for cell in head.split("|")].index("depth")
    assert {line.split("|")[2].strip(): line.split("|")[place].strip() for line in lines} == {
        "random": f"3.000 ± {half:.3f}",
        "low-loss": "-",
    }
    assert "never" not in head and "depth" in (tmp_path / "index.html").read_text()


def test_cost_is_beside_the_victims_own(tmp_path: Path) -> None:
    cost = {"seconds": {"data": 9.0, "victim": 4.0, "reference": 9.0, "score": 2.0, "retrain": 4.0}}
    row = one_row(tmp_path, made(cost={**cost, "models_trained": 1, "peak_memory_mb": 1.0}))
    assert (row["defense_seconds"], row["times_victim"], row["shared_seconds"]) == (6.0, 1.5, 22.0)
    assert row["processor"] == "a processor"


def test_times_of_two_machines_are_not_averaged(tmp_path: Path) -> None:
    def by(device: str, processor: str, precision: str, seed: int, seconds: float) -> dict[str, Any]:
        cost = {"seconds": {"victim": 1.0, "score": seconds}, "models_trained": 0, "peak_memory_mb": seconds}
        data = made(seed, cost=cost)
        here = {"device": device, "processor": processor, "precision": precision}
        return {**data, "environment": {**data["environment"], **here}}

    slow, fast = ("cpu", "a processor", "float32"), ("a GPU", "another processor", "bfloat16")
    row = one_row(tmp_path, by(*slow, 0, 100.0), by(*fast, 1, 2.0), by(*fast, 2, 4.0))
    assert (row["seeds"], row["defense_seconds"], row["times_victim"], row["peak_memory_mb"]) == (3, 3.0, 3.0, 3.0)
    assert (row["timed_on"], row["processor"]) == ("a GPU x2, bfloat16", "a processor, another processor")
    row = one_row(tmp_path / "cpu", by(*slow, 0, 100.0), by(*slow, 1, 50.0), by(*fast, 2, 4.0))
    assert (row["timed_on"], row["defense_seconds"]) == ("a processor x2, float32", 75.0)


def test_times_under_other_numbers_of_threads_are_not_averaged(tmp_path: Path) -> None:
    def timed(seed: int, threads: int, seconds: float) -> dict[str, Any]:
        one = made(
            seed, cost={"seconds": {"victim": 1.0, "score": seconds}, "models_trained": 0, "peak_memory_mb": 1.0}
        )
        return {**one, "environment": {**one["environment"], "threads": threads}}

    row = one_row(tmp_path, timed(0, 1, 80.0), timed(1, 1, 60.0), timed(2, 8, 10.0))
    assert row["defense_seconds"] == 70.0 and row["timed_on"] == "a processor x1, float32"


def test_both_ders_are_kept_and_the_rank_is_by_the_one_without_clips(tmp_path: Path) -> None:
    # Against the clipped DER both are alike: b leaves more of the attack than there was, .7.
    derived = {name: {"defense_effectiveness_rating": 0.5, "signed": s} for name, s in (("a", 0.5), ("b", 0.375))}
    rivals = [
        made(s, before=(0.96, 0.7), asr=asr, ca=0.96, parts=defense(n), derived=derived[n])
        for n, asr in (("a", 0.7), ("b", 0.95))
        for s in range(3)
    ]
    table = table_of(tmp_path, *rivals).set_index("defense")
    assert table["der"].tolist() == [0.5, 0.5] and table["rank"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "numbers", "shown"),
    [
        ("asr_after", (0.5, 0.3, 0.7), "50.0 ± 20.0"),
        ("asr_after", (0.5, 0.0, 1.0), "50.0 [0.0, 100.0]"),  # cut at both ends
        ("ca_cost", (0.0, -1.0, 1.0), "0.0 [-100.0, 100.0]"),
        ("ca_cost", (0.0, -0.2, 0.2), "0.0 ± 20.0"),
        ("flagged", (0.0, 0.0, 0.00016), "0.0 [0.0, 0.02]"),  # what is not 0 is not shown as 0
        ("flagged", (0.0, 0.0, 0.0009), "0.0 [0.0, 0.1]"),
        ("largest_change", (255.0, 255.0, 255.0), "255 ± 0"),
    ],
)
def test_an_interval_is_shown_for_what_it_is(name: str, numbers: tuple[float, float, float], shown: str) -> None:
    assert views.interval(*numbers, name) == shown


def test_a_page_says_which_variant_of_a_defense_it_is(tmp_path: Path) -> None:
    table_of(tmp_path, made(parts=defense("spectral", centered=True, across="raw")), made(parts=defense("random")))
    *_, variants = readme(tmp_path).split("## Which variant it is")
    assert "- spectral: across=raw, centered=True" in variants and "- random" not in variants
