"""What README.md and docs/results.md tell of the committed records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bdbench import Attack, Detector, leaderboard, record
from bdbench_datamodel.detector import Datamodel
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend

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
    ("attack", "asr", "auroc"),
    [
        (BadNets(rate=0.015, target=TARGET), 0.9, 0.99),
        (BadNets(rate=0.03, target=TARGET), 0.9, 0.99),
        (BadNets(rate=0.05, target=TARGET), 0.9, 0.99),
        (Blend(rate=0.015, target=TARGET), 0.7, 0.93),
        (Blend(rate=0.03, target=TARGET), 0.9, 0.96),
        (Blend(rate=0.05, target=TARGET), 0.9, 0.96),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_digits_default_keeps_its_promise(attack: Attack, asr: float, auroc: float) -> None:
    """These work as attacks, the default detector finds them, and they are gone afterwards, on every seed."""
    promised = _promised("digits", Datamodel(), attack)
    assert [r["seed"] for r in promised] == list(range(1000, 1005))
    for found in promised:
        assert found["before"]["attack_success_rate"] >= asr and found["before"]["clean_accuracy"] >= 0.95
        assert found["detection"]["auroc"] >= auroc
        assert found["after"]["attack_success_rate"] <= 0.05


def test_no_row_of_a_board_mixes_two_experiments() -> None:
    for folder in COMMITTED:
        identities: dict[str, set[str]] = {}
        for path in (folder / "records").glob("*.json"):
            config = json.loads(path.read_text())["config"]
            cell = json.dumps(record.cell_of(config), sort_keys=True)
            identities.setdefault(cell, set()).add(record.identity(config))
        assert all(len(found) == 1 for found in identities.values())
