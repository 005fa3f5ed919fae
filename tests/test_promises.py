"""What README.md and docs/results.md tell of the committed records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bdbench import Attack, Detector, configs, leaderboard
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
        (BadNets(rate=0.05, target=TARGET), 0.98),
        (Blend(rate=0.03, target=TARGET), 0.97),
        (Blend(rate=0.05, target=TARGET), 0.97),
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
        assert found["after"]["attack_success_rate"] <= 0.05


@pytest.mark.parametrize(
    ("attack", "tpr"),
    [
        (BadNets(rate=0.015, target=TARGET), 0.95),
        (BadNets(rate=0.03, target=TARGET), 0.95),
        (BadNets(rate=0.05, target=TARGET), 0.89),  # one seed: 61 of 68
        (Tact(target=TARGET), 0.95),
        (LabelConsistent(corners="four", target=TARGET), 0.95),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_its_own_decision_is_right_on_every_seed_of_these(attack: Attack, tpr: float) -> None:
    promised = _promised("digits", Datamodel(), attack)
    assert sum(found["decision"]["tpr"] >= 0.95 for found in promised) >= 4
    for found in promised:
        assert found["p_value"] < 0.05
        assert found["decision"]["tpr"] >= tpr and found["decision"]["fpr"] == 0


def test_it_finds_all_to_all_and_raises_the_alarm() -> None:
    promised = _promised("digits", Datamodel(), BadNets(mapping="all-to-all"))
    assert len(promised) == 5
    for found in promised:
        assert found["detection"]["auroc"] >= 0.96 and found["p_value"] < 0.001
        assert found["decision"]["tpr"] >= 0.92 and found["decision"]["fpr"] <= 0.06
    assert sum(found["decision"]["fpr"] <= 0.02 for found in promised) >= 4


def test_what_it_does_not_end_is_told_as_well() -> None:
    """Blend at 1.5 % is among the results as it is; so are the control's false alarms: none."""
    faint = _promised("digits", Datamodel(), Blend(rate=0.015, target=TARGET))
    assert sorted(found["after"]["attack_success_rate"] > 0.05 for found in faint) == [False] * 4 + [True]
    control = _promised("digits", Datamodel(), NoAttack())
    assert [found["p_value"] < 0.05 for found in control] == [False] * 5
    assert [found["decision"]["flagged"] for found in control] == [0] * 5


def test_no_row_of_a_board_mixes_two_experiments() -> None:
    for folder in COMMITTED:
        identities: dict[str, set[str]] = {}
        for path in (folder / "records").glob("*.json"):
            config = json.loads(path.read_text())["config"]
            cell = json.dumps(configs.cell_of(config), sort_keys=True)
            identities.setdefault(cell, set()).add(configs.identity(config))
        assert all(len(found) == 1 for found in identities.values())
