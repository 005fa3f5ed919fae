"""What README.md tells of the committed records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import Attack, Detector, leaderboard
from bdbench_baselines.activation_clustering import ActivationClustering
from bdbench_baselines.low_loss import LowLoss
from bdbench_baselines.random import Random
from bdbench_baselines.spectral import SpectralSignatures
from bdbench_datamodel.detector import Datamodel
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend
from bdbench_triggers.none import NoAttack
from bdbench_triggers.sig import Sig

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


@pytest.mark.parametrize(
    ("attack", "asr", "auroc"),
    [
        (BadNets(rate=0.015), 0.8, 0.98),
        (BadNets(rate=0.03), 0.8, 0.98),
        (BadNets(rate=0.05), 0.8, 0.98),
        (Blend(rate=0.015), 0.75, 0.94),
        (Blend(rate=0.03), 0.8, 0.98),
        (Blend(rate=0.05), 0.8, 0.98),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_digits_default_keeps_the_readmes_promise(attack: Attack, asr: float, auroc: float) -> None:
    """These work as attacks, the default detector finds them, and they are gone afterwards, on every seed."""
    promised = _promised("digits", Datamodel(), attack)
    assert [r["seed"] for r in promised] == list(range(10 if attack == Blend(rate=0.05) else 5))
    for found in promised:
        assert found["before"]["attack_success_rate"] >= asr and found["before"]["clean_accuracy"] >= 0.95
        assert found["detection"]["auroc"] >= auroc
        assert found["after"]["attack_success_rate"] <= 0.05
    assert np.mean([r["detection"]["auroc"] for r in promised]) >= 0.97


@pytest.mark.parametrize(
    ("attack", "auroc", "least", "cost"),
    [
        (BadNets(rate=0.015), 0.999, 0.999, 1),
        (BadNets(rate=0.05), 0.999, 0.997, 1),
        (Blend(rate=0.015), 0.999, 0.999, 1),
        (Blend(rate=0.05), 0.999, 0.999, 1),
        (Sig(rate=0.05), 0.98, 0.96, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_cifar10_keeps_the_readmes_promise(attack: Attack, auroc: float, least: float, cost: float) -> None:
    """The default detector finds these on every seed of leaderboards/cifar10-5k, and removing ends the attack, at less
    than a point of clean accuracy against removing as much at random.
    """
    promised = _promised("cifar10-5k", Datamodel(), attack)
    assert [r["seed"] for r in promised] == list(range(5))
    assert all(r["before"]["attack_success_rate"] >= 0.5 for r in promised)
    assert np.mean([r["detection"]["auroc"] for r in promised]) >= auroc
    assert all(r["detection"]["auroc"] >= least for r in promised)
    assert all(r["after"]["attack_success_rate"] <= 0.05 for r in promised)
    floor = _promised("cifar10-5k", Random(), attack)
    assert [r["seed"] for r in floor] == list(range(5))
    lost = [f["after"]["clean_accuracy"] - r["after"]["clean_accuracy"] for f, r in zip(floor, promised, strict=True)]
    assert 100 * np.mean(lost) < cost


@pytest.mark.parametrize(
    ("attack", "auroc", "p", "left"),
    [
        (BadNets(rate=0.015), 0.9999, 0.001, 0.024),
        (BadNets(rate=0.05), 0.998, 0.001, 0.062),
        (Blend(rate=0.015), 0.999, 0.001, 0.0045),
        (Blend(rate=0.05), 0.999, 0.001, 0.012),
        (Sig(rate=0.05), 0.9835, 0.0035, 0.0165),
    ],
    ids=["badnets 1.5 %", "badnets 5 %", "blend 1.5 %", "blend 5 %", "sig"],
)
def test_all_of_cifar10_keeps_the_readmes_promise(attack: Attack, auroc: float, p: float, left: float) -> None:
    (promised,) = _promised("cifar10", Datamodel(), attack)
    (floor,) = _promised("cifar10", Random(), attack)
    assert promised["config"]["data"]["train"] == 50_000 and promised["cost"]["models_trained"] == 301
    assert promised["before"]["attack_success_rate"] >= 0.6 and promised["after"]["attack_success_rate"] <= left
    assert promised["detection"]["auroc"] >= auroc and promised["detection"]["p_value"] < p
    assert floor["after"]["clean_accuracy"] - promised["after"]["clean_accuracy"] < 0.002
    for defense in (SpectralSignatures(), ActivationClustering(), LowLoss()):
        (other,) = _promised("cifar10", defense, attack)
        assert other["detection"]["auroc"] < promised["detection"]["auroc"]


@pytest.mark.parametrize(("board", "seeds", "alarms"), [("digits", 20, 3), ("cifar10-5k", 20, 0)])
def test_controls_have_the_false_alarms_that_are_told_of(board: str, seeds: int, alarms: int) -> None:
    own = _promised(board, Datamodel(), NoAttack())
    assert [r["seed"] for r in own] == list(range(seeds))
    assert sum(r["detection"]["p_value"] < 0.05 for r in own) == alarms
