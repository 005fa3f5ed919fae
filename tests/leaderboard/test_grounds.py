"""What a row is set against: its control, the floor of its attack, its rivals; and what is no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench.leaderboard import intervals
from tests.boards import one_row, table_of
from tests.records import attack, defense, inputs, made, performance, verdict


@pytest.mark.parametrize("other", [{"config": {"budget": 0.2}}, {"oracles": ["poison_rate"]}])
def test_the_control_of_a_row_has_its_budget_and_is_told_as_much(tmp_path: Path, other: dict[str, Any]) -> None:
    attacked = [made(s) for s in range(2)]
    table = table_of(tmp_path, *attacked, *[made(s, control=True, **other) for s in range(2)])
    assert np.isnan(table[table["attack"] == "badnets"]["control_ca_cost"].iloc[0])
    alike = table_of(tmp_path / "alike", *attacked, *[made(s, control=True) for s in range(2)])
    assert alike["control_ca_cost"].tolist() == [pytest.approx(0.01)] * 2


def test_files_that_nobody_is_known_to_have_read_are_of_the_data(tmp_path: Path) -> None:
    held = [made(s, config={"files": {"x.npy": content}}) for content in ("x1", "x2") for s in range(2)]
    assert table_of(tmp_path, *held)["seeds"].tolist() == [2, 2]


def test_a_p_value_at_the_level_is_no_alarm(tmp_path: Path) -> None:
    row = one_row(tmp_path, *[made(s, p_value=p) for s, p in enumerate([0.05, 0.05, 0.049])])
    assert (row["alarms"], row["alarms_of"]) == (1, 3)


def test_an_attack_works_if_half_obey_beyond_doubt(tmp_path: Path) -> None:
    # Of 1,080 tries .49 is .46 at least, .53 is .50.
    for asr, works in ((0.49, "no"), (0.51, "no"), (0.54, "yes")):
        assert one_row(tmp_path / str(asr), *[made(s, before=(0.96, asr)) for s in range(3)])["works"] == works


def test_a_floor_of_two_seeds_is_of_the_tries_of_those_alone(tmp_path: Path) -> None:
    parts = {**attack("obeyed"), **defense("none")}
    told = [made(s, stage="repair", parts=parts, floor=performance(0.9, 0.1) if s else None) for s in range(3)]
    row = one_row(tmp_path, *told)
    assert row["asr_floor"] == pytest.approx(0.1)
    assert row["asr_floor_high"] == pytest.approx(0.1 + intervals.reach(0.1, 720), rel=1e-4)


def test_a_row_without_a_control_takes_nobody_elses(tmp_path: Path) -> None:
    clean = [made(s, control=True, ca=0.5, parts=defense("last")) for s in range(2)]
    table = table_of(tmp_path, *[made(s) for s in range(2)], *clean).set_index("defense")
    assert np.isnan(table["control_ca_cost"]["random"]) and table["control_ca_cost"]["last"] == pytest.approx(0.46)


def test_verdicts_of_one_attacked_model_have_no_interval_and_controls_no_verdicts_on_themselves(tmp_path: Path) -> None:
    one = made(0, stage="model", verdict=verdict(3.0, True, True))
    clean = [made(s, stage="model", control=True, verdict=verdict(1.0, True)) for s in range(2)]
    table = table_of(tmp_path, one, *clean).set_index("attack")
    assert table["model_auroc"]["badnets"] == 1.0 and np.isnan(table["model_auroc_low"]["badnets"])
    assert np.isnan(table["model_auroc"]["none"]) and table["detections_of"]["none"] == 0


def test_seconds_an_input_are_those_of_an_input(tmp_path: Path) -> None:
    told = {**inputs(0.8), "fpr": 0.06, "seconds_per_input": 0.004}
    assert one_row(tmp_path, made(stage="inputs", inputs=told))["seconds_per_input"] == 0.004
