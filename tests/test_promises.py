"""What README.md and docs/results.md tell of the committed records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from bdbench import Attack, Detector, leaderboard
from bdbench.cli import cli
from bdbench.components import configs
from bdbench_datamodel.detector import Datamodel
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend
from bdbench_triggers.label_consistent import LabelConsistent
from bdbench_triggers.none import NoAttack
from bdbench_triggers.tact import Tact

BOARDS = Path(__file__).parent.parent / "leaderboards"
COMMITTED = sorted(p.parent for p in BOARDS.glob("*/records"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda p: p.name)
def test_what_is_committed_is_what_the_records_give(folder: Path) -> None:
    assert leaderboard.stale(folder) == []


def _promised(board: str, defense: Detector, attack: Attack) -> list[dict[str, Any]]:
    folder = BOARDS / board / "records"
    records = [json.loads(path.read_text()) for path in folder.glob(f"*-{attack.name}-{defense.name}-*.json")]
    own = {"defense": defense.config(), "attack": attack.config()}
    found = [r for r in records if {kind: r["config"][kind] for kind in own} == own]
    return sorted(found, key=lambda r: r["seed"])


TARGET: Any = "seed"


@pytest.mark.parametrize(
    ("attack", "auroc"),
    [
        (BadNets(rate=0.015, target=TARGET), 0.99),
        (BadNets(rate=0.03, target=TARGET), 0.99),
        (BadNets(rate=0.05, target=TARGET), 0.99),
        (Blend(rate=0.03, target=TARGET), 0.98),
        (Blend(rate=0.05, target=TARGET), 0.99),
        (Tact(target=TARGET), 0.99),
        (LabelConsistent(corners="four", target=TARGET), 0.99),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_the_default_detector_ends_these_on_every_seed(attack: Attack, auroc: float) -> None:
    promised = _promised("digits", Datamodel(), attack)
    assert [r["seed"] for r in promised] == list(range(1000, 1005))
    for found in promised:
        assert found["before"]["attack_success_rate"] >= 0.9 and found["before"]["clean_accuracy"] >= 0.95
        assert found["detection"]["auroc"] >= auroc
        # On one seed of the label-consistent attack a model that is trained without a single poison obeys 10 %.
        decided = found["decision"]
        without = decided["after"]["attack_success_rate"] if decided["tpr"] == 1 and decided["fpr"] == 0 else 0
        assert found["after"]["attack_success_rate"] <= max(0.05, without)


@pytest.mark.parametrize(
    ("attack", "tpr", "named"),
    [
        (BadNets(rate=0.015, target=TARGET), 0.99, 5),
        (BadNets(rate=0.03, target=TARGET), 0.99, 5),
        (BadNets(rate=0.05, target=TARGET), 0.99, 5),
        (Tact(target=TARGET), 0.99, 5),
        (LabelConsistent(corners="four", target=TARGET), 0.99, 5),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_its_own_decision_is_right_where_it_names_the_target_of_these(attack: Attack, tpr: float, named: int) -> None:
    promised = _promised("digits", Datamodel(), attack)
    assert sum(found["decision"]["tpr"] >= 0.95 for found in promised) >= 4
    alarms = [found for found in promised if found["p_value"] < 0.05]
    assert len(alarms) == named
    for found in promised:
        assert found["decision"]["fpr"] == 0
    for found in alarms:
        assert found["decision"]["tpr"] >= tpr


def test_it_finds_all_to_all_and_raises_the_alarm() -> None:
    promised = _promised("digits", Datamodel(), BadNets(mapping="all-to-all"))
    assert len(promised) == 5
    for found in promised:
        assert found["detection"]["auroc"] >= 0.998 and found["p_value"] < 0.001
        assert found["decision"]["tpr"] >= 0.95 and found["decision"]["fpr"] < 0.013
        assert found["after"]["attack_success_rate"] <= 0.04


def test_what_it_does_not_end_is_told_as_well() -> None:
    """Where it is silent about Blend, and the control's false alarms: none."""
    for rate, alarms, decided in ((0.015, 4, 4), (0.03, 4, 4), (0.05, 5, 5)):
        found = _promised("digits", Datamodel(), Blend(rate=rate, target=TARGET))
        # Hardly a poison is left; without what else is hard a model obeys a little more than without poisons alone.
        assert all(record["detection"]["auroc"] > 0.994 for record in found)
        assert all(record["after"]["attack_success_rate"] < 0.041 for record in found)
        assert sum(record["p_value"] < 0.05 for record in found) == alarms
        named = [record for record in found if record["decision"]["flagged"]]
        assert len(named) == decided
        assert all(record["decision"]["tpr"] >= 0.95 and record["decision"]["fpr"] < 0.014 for record in named)
    control = _promised("digits", Datamodel(), NoAttack())
    assert [found["p_value"] < 0.05 for found in control] == [False] * 5
    assert [found["decision"]["flagged"] for found in control] == [0] * 5


def _detected(board: str, code: str = "") -> list[dict[str, Any]]:
    """The board's records of the detector by its defaults, of the rule with that code."""
    found = [json.loads(path.read_text()) for path in (BOARDS / board / "records").glob("*-datamodel-*.json")]
    found = [record for record in found if record["config"]["code"]["defense"].startswith(code)]
    return [record for record in found if record["config"]["defense"] == Datamodel().config()]


def test_on_cifar10_badnets_is_named_from_fifteen_poisons_on_and_clean_sets_are_left_alone() -> None:
    """By the rule that the page calls the present one."""
    of_attack: dict[str, list[dict[str, Any]]] = {}
    for record in _detected("cifar10-5k", "dc87895b"):
        attack = record["config"]["attack"]
        goals = "all" if attack.get("mapping") == "all-to-all" else attack.get("targets")
        of_attack.setdefault(f"{attack['name']} {attack.get('rate')} {goals}", []).append(record)
    of_attack = {name.removesuffix(" None None"): found for name, found in of_attack.items()}
    assert {name: len(found) for name, found in of_attack.items()} == {
        "none": 5, "badnets 0.003 1": 5, "badnets 0.015 1": 5, "badnets 0.05 1": 5, "badnets 0.05 2": 5,
        "badnets 0.05 all": 5, "blend 0.003 1": 5,
    }  # fmt: skip
    assert all(record["p_value"] > 0.05 and record["decision"]["flagged"] == 0 for record in of_attack["none"])
    for record in of_attack["badnets 0.003 1"]:
        assert record["detection"]["auroc"] == 1 and record["p_value"] < 0.015
        assert record["decision"]["tpr"] == 1 and record["decision"]["fpr"] < 0.0013
        assert record["decision"]["after"]["attack_success_rate"] < 0.085
    for record in (*of_attack["badnets 0.015 1"], *of_attack["badnets 0.05 1"]):
        assert record["detection"]["auroc"] == 1 and record["p_value"] < 0.0002
        assert record["decision"]["tpr"] == 1 and record["decision"]["fpr"] < 0.0015
        assert 0.014 < record["decision"]["after"]["attack_success_rate"] < 0.092
    for record in of_attack["badnets 0.05 2"]:
        assert record["detection"]["auroc"] == 1 and record["p_value"] < 0.0001
        assert record["decision"]["tpr"] == 1 and record["decision"]["fpr"] < 0.0013
        assert record["decision"]["after"]["attack_success_rate"] < 0.067
        assert 0.031 < record["decision"]["after"]["worst_goal"] < 0.092
    for record in of_attack["badnets 0.05 all"]:
        assert 0.72 < record["detection"]["auroc"] < 0.81 and 0.07 < record["p_value"] < 0.31
        assert record["decision"]["flagged"] == 0 and record["before"]["attack_success_rate"] < 0.32
    # What hardly works is hardly named.
    found = of_attack["blend 0.003 1"]
    assert sorted(record["before"]["attack_success_rate"] for record in found)[2] < 0.19
    assert sorted(record["detection"]["auroc"] > 0.997 for record in found) == [False, *[True] * 4]
    assert sorted(record["p_value"] < 0.05 for record in found) == [*[False] * 3, True, True]
    assert sorted(record["decision"]["tpr"] for record in found) == [0, 0, 0, 0, 1]


def test_on_cifar10_blended_poisons_come_first_and_most_are_named() -> None:
    """5,000 images, five seeds, 1.5 and 5 %, by the earlier rule."""
    attacked = [
        record for record in _detected("cifar10-5k", "cec648c7") if record["config"]["attack"]["name"] == "blend"
    ]
    assert len(attacked) == 10
    assert all(record["detection"]["auroc"] >= 0.997 for record in attacked)
    named = [record for record in attacked if record["decision"]["tpr"] > 0]
    assert len(named) == 9 and all(record["decision"]["tpr"] >= 0.99 for record in named)
    assert sum(record["decision"]["fpr"] > 0.001 for record in named) == 3
    assert all(record["decision"]["fpr"] < 0.05 for record in named)


def test_on_all_of_cifar10_it_flags_the_poisons_and_nothing_else() -> None:
    for record in _detected("cifar10", "cec648c7"):
        assert record["decision"]["fpr"] == 0
        if record["config"]["attack"]["name"] in ("badnets", "blend"):
            assert record["detection"]["auroc"] >= 0.999 and record["decision"]["tpr"] >= 0.999
            assert record["p_value"] < 0.02 and record["after"]["attack_success_rate"] < 0.05


def test_how_often_it_alarms_on_clean_sets_is_told() -> None:
    found = _detected("controls")
    # Half of them of 2,000 images of CIFAR-10, of which its networks know little.
    assert sorted(record["config"]["dataset"].get("subset") or 0 for record in found) == [0] * 15 + [2000] * 15
    assert {record["seed"] for record in found} == set(range(1030, 1045))
    (alarm,) = (record for record in found if record["p_value"] < 0.05)
    assert (
        alarm["p_value"] > 0.04 and alarm["decision"]["flagged"] < 0.01 and alarm["config"]["dataset"]["subset"] == 2000
    )
    assert all(record["p_value"] > 0.06 and record["decision"]["flagged"] == 0 for record in found if record != alarm)


def test_no_row_of_a_board_mixes_two_experiments() -> None:
    for folder in COMMITTED:
        identities: dict[str, set[str]] = {}
        for path in (folder / "records").glob("*.json"):
            config = json.loads(path.read_text())["config"]
            cell = json.dumps(configs.cell_of(config), sort_keys=True)
            identities.setdefault(cell, set()).add(configs.identity(config))
        assert all(len(found) == 1 for found in identities.values())


def _attacked(board: str) -> list[dict[str, Any]]:
    """The board's records of the detector as it is, against attacks that work there."""
    table = pd.read_csv(BOARDS / board / "table.csv")
    rows = table[(table["defense"] == "datamodel") & (table["works"] == "yes")]
    working = [{"name": row.attack, **json.loads(row.attack_parameters)} for row in rows.itertuples()]

    def told(attack: dict[str, Any]) -> dict[str, Any]:
        """A table leaves out what is not set."""
        return {name: value for name, value in attack.items() if value is not None}

    return [record for record in _detected(board) if told(record["config"]["attack"]) in working]


def test_on_seeds_that_nobody_had_seen_it_names_what_it_is_to_find() -> None:
    found = _detected("goals")
    assert {record["seed"] for record in found} == set(range(2720, 2725)) and len(found) == 160
    attacked = _attacked("goals")
    assert len(attacked) == 135 and sum(record["p_value"] < 0.05 for record in attacked) == 124
    aurocs = [record["detection"]["auroc"] for record in attacked]
    assert sum(aurocs) / 135 == pytest.approx(0.996, abs=0.001) and sum(auroc >= 0.98 for auroc in aurocs) == 126
    left = {part: sum(asr(record) for record in attacked) / 135 for part, asr in _LEFT.items()}
    assert left == {"a tenth": pytest.approx(0.0247, abs=0.001), "decision": pytest.approx(0.088, abs=0.001)}
    certain = ("badnets", "tact", "label-consistent")
    for record in attacked:
        attack = record["config"]["attack"]
        if attack["name"] in certain and attack.get("mapping") != "all-to-all" and attack.get("targets", 1) in (1, 2):
            assert record["detection"]["auroc"] > 0.999 and record["p_value"] < 0.001
            assert record["decision"]["tpr"] == 1 and record["decision"]["fpr"] <= 0.02
    clean = [r for r in found if r["config"]["attack"]["name"] == "none"]
    assert len(clean) == 5 and all(r["p_value"] > 0.15 and r["decision"]["flagged"] == 0 for r in clean)


_LEFT: dict[str, Callable[[dict[str, Any]], float]] = {
    "a tenth": lambda record: record["after"]["attack_success_rate"],
    "decision": lambda record: record["decision"]["after"]["attack_success_rate"],
}


def test_where_it_fails_on_those_seeds_is_told() -> None:
    """Few poisons of Blend and of reflections, and warps."""
    by_name: dict[tuple[str, float], list[float]] = {}
    silent = set()
    for record in _attacked("goals"):
        attack = record["config"]["attack"]
        if attack.get("mapping") != "all-to-all" and attack.get("targets", 1) == 1:
            by_name.setdefault((attack["name"], attack["rate"]), []).append(record["detection"]["auroc"])
        if record["p_value"] >= 0.05:
            silent.add((attack["name"], attack["rate"]))
    assert {key for key, found in by_name.items() if min(found) < 0.98} == {
        ("blend", 0.01),
        ("blend", 0.015),
        ("refool", 0.01),
        ("wanet", 0.1),
    }
    assert silent == {("blend", 0.01), ("blend", 0.015), ("refool", 0.01), ("wanet", 0.1)}


def test_a_small_p_is_not_shown_as_none() -> None:
    found = min(_detected("digits"), key=lambda record: record["p_value"])
    assert found["p_value"] < 0.0005
    file = BOARDS / "digits" / "records" / f"{found['id']}.json"
    shown = CliRunner().invoke(cli, ["show", str(file)]).output
    assert float(shown.split("p-value")[1].split()[1]) == pytest.approx(found["p_value"], rel=0.05)
