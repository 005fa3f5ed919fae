from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bdbench import leaderboard, schemas
from bdbench.cli import cli
from bdbench.leaderboard import intervals, markdown
from bdbench.leaderboard.columns import NUMBERS
from tests.records import attack, decision, defense, inputs, keep, made, make_board, performance, verdict


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "build", str(folder), *options])


def table_of(folder: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    """table.csv of a leaderboard of these records."""
    result = build(keep(folder, *rows))
    assert result.exit_code == 0, result.output
    return pd.read_csv(folder / "table.csv")


def one_row(folder: Path, *rows: dict[str, Any]) -> Any:
    table = table_of(folder, *rows)
    assert len(table) == 1
    return table.iloc[0]


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its heading."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


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
    text = readme(tmp_path)
    assert "random models=10 |" in text and "random models=20 |" in text and "alpha" not in text
    assert "badnets rate=0.05 |" in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [made(s, parts=defense(name)) for name in ("random", "spectral") for s in range(3)]
    for name, order in (("one", 1), ("two", -1)):
        build(keep(tmp_path / name / "board", *records[::order]))
    for file in ("table.csv", "README.md", "index.html", "cost.svg"):
        first, second = ((tmp_path / n / "board" / file).read_bytes() for n in ("one", "two"))
        assert first == second


def test_check_writes_nothing_and_fails_on_a_difference(tmp_path: Path) -> None:
    keep(tmp_path, *[made(s, auroc=a) for s, a in enumerate([0.7, 0.8])])
    missing = build(tmp_path, "--check")
    assert missing.exit_code == 1 and not (tmp_path / "table.csv").exists()
    build(tmp_path)
    assert build(tmp_path, "--check").exit_code == 0
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace("0.75", "0.99"))
    changed = build(tmp_path, "--check")
    assert changed.exit_code == 1
    assert "table.csv differs from the records" in changed.stderr
    assert "0.99" in (tmp_path / "table.csv").read_text()


def test_an_invalid_record_and_an_empty_board_are_named(tmp_path: Path) -> None:
    empty = build(tmp_path)
    assert empty.exit_code == 2 and "no records in" in empty.stderr
    keep(tmp_path, made())
    file = next((tmp_path / "records").glob("*.json"))
    file.write_text(file.read_text().replace('"seed": 0', '"seed": "zero"'))
    invalid = build(tmp_path)
    assert invalid.exit_code == 2 and file.name in invalid.stderr and "at seed" in invalid.stderr


def test_two_records_of_one_cell_and_seed_are_refused(tmp_path: Path) -> None:
    assert "two records" in build(keep(tmp_path, made(), made())).stderr


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


def test_cost_is_beside_the_victims_own(tmp_path: Path) -> None:
    cost = {"seconds": {"data": 9.0, "victim": 4.0, "reference": 9.0, "score": 2.0, "retrain": 4.0}}
    row = one_row(tmp_path, made(cost={**cost, "models_trained": 1, "peak_memory_mb": 1.0}))
    assert (row["defense_seconds"], row["times_victim"], row["shared_seconds"]) == (6.0, 1.5, 22.0)
    assert row["processor"] == "a processor"


def test_both_ders_are_kept_and_the_rank_is_by_the_one_without_clips(tmp_path: Path) -> None:
    # Against the clipped DER both are alike.
    derived = {name: {"defense_effectiveness_rating": 0.5, "signed": s} for name, s in (("a", 0.5), ("b", 0.3))}
    rivals = [made(s, asr=0.9, parts=defense(n), derived=derived[n]) for n in "ab" for s in range(3)]
    table = table_of(tmp_path, *rivals).set_index("defense")
    assert table["der"].tolist() == [0.5, 0.5] and table["rank"].tolist() == [1, 2]


def add(folder: Path, *paths: Path) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "add", str(folder), *map(str, paths)])


def of_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """About what the first version held of it."""
    names = (
        "id", "seed", "config", "oracles", "environment", "before", "detection", "after", "derived", "cost", "extra",
    )  # fmt: skip
    old = json.loads(json.dumps({name: data[name] for name in names}))
    for part in ("before", "after"):
        old[part] = {k: old[part][k] for k in ("clean_accuracy", "attack_success_rate", "robust_accuracy")}
    old["config"] = {k: v for k, v in old["config"].items() if k not in ("reserve", "files", "code", "data")}
    old["environment"] = {k: old["environment"][k] for k in ("versions", "device", "threads", "commit")}
    old["derived"].pop("signed")
    return {**old, "schema": "bdbench.record/1"}


def test_records_from_elsewhere_are_taken_in_all_or_none(tmp_path: Path) -> None:
    theirs = sorted((keep(tmp_path / "theirs", made(0), made(1)) / "records").iterdir())
    assert add(tmp_path / "ours", theirs[0]).exit_code == 0
    copy = tmp_path / "ours" / "records" / theirs[0].name
    assert copy.read_bytes() == theirs[0].read_bytes()
    data = {key: value for key, value in json.loads(theirs[1].read_text()).items() if key != "digest"}
    mistakes = {
        "old": (of_version_1(data), "version 1 of the definitions .* expected version 2"),
        "schema": ({**data, "schema": "bdbench.record/3"}, "schema 'bdbench.record/3' is not supported"),
        "invalid": ({**data, "seed": -1}, "not a valid record at seed"),
        "twice": ({**data, "seed": 0, "id": "other"}, "random-s0-.*json is of the same cell and seed"),
    }
    for name, (bad, message) in mistakes.items():
        file = tmp_path / f"{name}.json"
        file.write_text(schemas.dumps(bad))
        result = add(tmp_path / "ours", theirs[1], file)
        assert result.exit_code == 2 and re.search(message, result.stderr), result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert list((tmp_path / "ours" / "records").iterdir()) == [copy]
    # Of the same cell and seed, but of other data: another experiment.
    other = tmp_path / "other.json"
    other.write_text(schemas.dumps(made(0, facts={"source": "b" * 32})))
    assert add(tmp_path / "ours", *theirs, other).exit_code == 0
    assert build(tmp_path / "ours").exit_code == 0


@pytest.mark.parametrize("command", [["build"], ["build", "--check"], ["show"]])
def test_a_board_of_the_first_version_is_refused_with_the_reason(tmp_path: Path, command: list[str]) -> None:
    keep(tmp_path, made(0))
    (tmp_path / "records" / "old.json").write_text(schemas.dumps(of_version_1(made(1))))
    result = CliRunner().invoke(cli, ["leaderboard", *command[:1], str(tmp_path), *command[1:]])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert re.search(r"old\.json: .*version 1 of the definitions.*: expected version 2", result.stderr)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_board(tmp_path_factory.mktemp("board") / "made")
    (folder / "records" / "none-low-loss-0.json").unlink()
    lists = {"datasets": ["digits"], "models": ["convnet"], "attacks": ["none", "sig"], "defenses": ["low-loss"]}
    (folder / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()) + 'seeds = "0-1"\n')
    return folder


def show(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", "show", str(folder), *options])


def test_a_part_is_filtered_sorted_and_grouped(board: Path) -> None:
    blend = ("--where", "attack=blend rate=0.05")
    assert rows(show(board, *blend, "--sort", "auroc", "--columns", "defense,rank").stdout) == [
        ["spectral", "1"], ["low-loss", "2"], ["random", "3"],
    ]  # fmt: skip
    assert rows(show(board, *blend, "--where", "defense=random", "--columns", "auroc").stdout) == [["0.510 ± 0.079"]]
    least = rows(show(board, *blend, "--sort", "asr_after", "--columns", "defense").stdout)
    assert least == [["spectral"], ["low-loss"], ["random"]]
    by = show(board, "--by", "defense", "--where", "defense=spectral", "--where", "defense=random").stdout
    assert re.findall("^## (.*)", by, re.M) == ["random", "spectral"]
    table = pd.read_csv(StringIO(show(board, "--csv", "--where", "attack=none").stdout))
    assert set(table["attack"]) == {"none"} and len(table) == 3


def test_a_part_has_a_table_for_each_stage(tmp_path: Path) -> None:
    keep(tmp_path, made(), made(stage="repair", parts=defense("ft")))
    text = show(tmp_path, "--matrix", "asr_after").stdout
    assert re.findall("^## (.*)", text, re.M) == ["Training set", "Repair"]
    one = show(tmp_path, "--matrix", "asr_after", "--where", "stage=repair").stdout
    assert "##" not in one and rows(one) == [["badnets rate=0.05", "99.0", "2.0"]]
    assert markdown.part(tmp_path, matrix="auroc").startswith("| attack")


def test_what_was_not_run_is_said_everywhere(board: Path) -> None:
    heading, _, *lines = show(board, "--matrix", "auroc").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "low-loss", "random", "spectral", ""]
    assert [line.count("not run") for line in lines] == [0, 3]
    heading, _, blend, *_ = show(board, "--matrix", "asr_after").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")][1:4] == ["attack", "no defense", "low-loss"]
    assert rows(show(board, "--where", "attack=blend", "--columns", "asr_before").stdout)[0][0] in blend.split("|")[2]
    assert "Not run:" not in show(board, "--matrix", "auroc").stdout
    leaderboard.build(board)
    assert leaderboard.stale(board) == []
    text = readme(board)
    assert "- none: low-loss (seeds 0)" in text and "- sig rate=0.05: every defense (seeds 0-1)" in text
    assert text.count("\n### ") == 2  # of the attacks, and of the training set
    table = pd.read_csv(board / "table.csv").set_index(["attack", "defense"])
    assert table["not_run"].dropna().to_dict() == {("none", "low-loss"): "0", ("sig", "low-loss"): "0-1"}
    assert table["seeds"]["sig", "low-loss"] == 0 and np.isnan(table["ca_after"]["sig", "low-loss"])
    assert (board / "index.html").read_text().count("Not run: seeds") == 2


def test_a_defense_that_was_never_run_has_no_column(board: Path) -> None:
    for record in (board / "records").glob("*low-loss*.json"):
        record.unlink()
    heading, *_, blank, last = show(board, "--matrix", "auroc").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "random", "spectral", ""]
    assert (blank, last) == ("", "Not run: low-loss.")


def test_why_a_defense_does_not_apply_is_said_in_place_of_not_run(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.plugins import installed

    sig = type(installed().component("attack", "sig"))
    monkeypatch.setattr(sig, "trains", True)
    leaderboard.build(board)
    text = readme(board)
    assert "- sig rate=0.05: every defense (does not apply: the attacker trains the model)" in text
    matrix = show(board, "--matrix", "auroc").stdout.splitlines()[-1]
    assert "the attacker trains the model" in matrix
    table = pd.read_csv(board / "table.csv").set_index(["attack", "defense"])
    assert table["not_applicable"]["sig", "low-loss"] == "the attacker trains the model"
    assert pd.isna(table["not_run"]["sig", "low-loss"])
    assert "Does not apply: the attacker trains the model." in (board / "index.html").read_text()


def test_what_other_code_made_is_said_and_changes_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_board(tmp_path / "board")
    leaderboard.build(folder)
    assert build(folder, "--check").stderr == "" and show(folder).stderr == ""
    before = leaderboard.render(folder)
    from bdbench import sources
    from bdbench.plugins import installed

    spectral, code = type(installed().component("defense", "spectral")), sources.own_code
    monkeypatch.setattr(sources, "own_code", lambda c: "changed" if c is spectral else code(c))
    assert leaderboard.render(folder) == before
    for result in (build(folder, "--check"), show(folder)):
        assert result.exit_code == 0
        assert len(result.stderr.splitlines()) == 2
        assert re.search(r"stale: .*blend.*spectral.*seeds 0-2 were made by other code of the defense", result.stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "attack=blnd"], "unknown attack 'blnd'"),
        (["--where", "rate=1"], "unknown condition 'rate=1'"),
        (["--sort", "auorc"], "unknown column 'auorc': did you mean 'auroc'"),
        (["--columns", "attack,auorc"], "unknown column 'auorc'"),
        (["--matrix", "auorc"], "unknown column 'auorc'"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(board: Path, options: list[str], message: str) -> None:
    result = show(board, *options)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


_NOTED = """\
datasets = ["digits"]
models = ["convnet:width=4"]
attacks = ["none", "badnets", "sig:frequency=2"]
defenses = ["none"]
seeds = "0-2"
[[notes]]
attack = "badnets:rate=0.05"
text = "It works."
[[notes]]
attack = "sig"
dataset = "digits"
text = "Not here."
"""


def test_attacks_have_a_table_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(_NOTED)
    shown = {"psnr": 30.0, "ssim": 0.9, "largest_change": 255}
    seconds = {"seconds": {"victim": 2.0, "craft": 65.0, "poison": 0.012}, "models_trained": 0, "peak_memory_mb": 1.0}
    none = {"defense": {"name": "none"}}
    for seed in range(3):
        keep(tmp_path, made(seed, stage="repair", parts=none, before=(0.95, 0.9), stealth=shown, cost=seconds))
        keep(tmp_path, made(seed, stage="repair", parts=none, control=True, before=(0.97, None)))
    build(tmp_path)
    text = readme(tmp_path)
    # There is nothing to compare, so no table of repairs.
    assert "## Attacks" in text and "## Repair" not in text and "## Overall" not in text
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, _, badnets = table[:3]
    assert header == [
        "attack", "seeds", "ASR before", "CA before", "CA, clean model", "PSNR dB", "SSIM", "largest change",
        "seconds to craft", "to poison",
    ]  # fmt: skip
    numbers = dict(zip(header, badnets, strict=True))
    assert numbers["attack"].startswith("badnets") and numbers["seeds"] == "3"
    assert (numbers["PSNR dB"], numbers["SSIM"], numbers["largest change"]) == (
        "30.0 ± 0.0",
        "0.900 ± 0.000",
        "255 ± 0",
    )
    assert (numbers["seconds to craft"], numbers["to poison"]) == ("65", "0.012")
    assert numbers["CA, clean model"].startswith("97.0") and numbers["ASR before"].startswith("90.0")
    assert f"- {numbers['attack']}: It works." in text and "Not here" not in text
    assert "seeds 0-2" in text  # of sig, which nobody ran
    assert "<h2>Attacks</h2>" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('attack = "blend"\ntext = "x"', "unknown attack in .*grid.toml 'blend'"),
        ('attack = "sig"\ndataset = "mnist"\ntext = "x"', "unknown dataset in .*grid.toml 'mnist'"),
        ('attack = "sig"', "is no note: expected attack, text, and dataset"),
    ],
)
def test_a_note_on_nothing_is_refused(tmp_path: Path, note: str, message: str) -> None:
    (tmp_path / "grid.toml").write_text(_NOTED + f"[[notes]]\n{note}\n")
    keep(tmp_path, made(0))
    result = build(tmp_path)
    assert result.exit_code == 2 and re.search(message, result.output)
