"""Records of runs that never were, one for each stage of defense, for the checks of reporters and metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bdbench import __version__
from bdbench.storage.record import Cost, Decision, Derived, Detection, Inputs, Judgement, Performance, Record, Stealth

ATTACKED = Performance(0.9, 0.8, 0.1)
# Of a source-specific attack with several goals, so that nothing is null.
WHOLE = Performance(0.9, 0.8, 0.1, {"0": 0.7, "1": 0.9}, 0.9, 0.85, 0.05)
CONTROL = Performance(0.9, None, None)

_ORACLES = {"training set": ["poison_rate"], "training time": [], "model": ["target_labels"]}
_OF_ITS_OWN = {
    "training set": "score", "training time": "train", "repair": "repair", "inputs": "score", "model": "inspect",
}  # fmt: skip


def own_stage(stage: str) -> str:
    """What a defense of a stage does itself, as hooks on stages call it."""
    return _OF_ITS_OWN[stage]


def record(stage: str, control: bool = False) -> Record:
    """A valid record of a defense of ``stage``, on an attacked set or on a clean one."""
    before = CONTROL if control else WHOLE
    after = None if stage == "model" else replace(before, clean_accuracy=0.88)
    components = {kind: {"name": f"sample-{kind}"} for kind in ("dataset", "model", "attack", "defense")}
    trained = stage in ("training set", "training time")
    measured = _measured(control, before)
    oracles = _ORACLES.get(stage, ["clean_set"])
    return Record(
        id=f"conformance-{stage.replace(' ', '-')}{'-control' if control else ''}-s0-00000000",
        seed=0,
        stage=stage,
        control=control,
        config={
            **components,
            "budget": 0.1 if stage == "training set" else None,
            "reserve": 0.05,
            "recipe": {"epochs": 1},
            "data": _facts(control),
            "files": {},
            "code": dict.fromkeys(("model", "attack", "defense"), "0" * 16),
        },
        oracles=oracles,
        access=[*(["training_set"] if trained else []), *oracles],
        environment={
            "versions": {"bdbench": __version__},
            "device": "cpu",
            "processor": "sample",
            "precision": "float32",
            "threads": 1,
            "commit": None,
        },
        before=before,
        reference=before if trained else None,
        after=after,
        cost=Cost({"victim": 1.5, _OF_ITS_OWN[stage]: 0.5}, 1, 100.0),
        arrays="0" * 32,
        floor=None if control else replace(before, attack_success_rate=0.1),
        stealth=None if control else Stealth(30.0, 0.95, 20),
        p_value=0.5 if stage in ("training set", "model") else None,
        derived=Derived(None if control or after is None else 0.5, None if control or after is None else 0.49),
        **{key: value for key, (of, value) in measured.items() if of == stage},
    )


def _measured(control: bool, before: Performance) -> dict[str, tuple[str, Any]]:
    """What only records of one stage have: its stage, and a sample of it."""
    unpoisoned = Detection(None, None, 0.1, None, 0.1, None, None)
    decision = Decision(0.0, None if control else 0.0, 0.0, None, None, before, None, None)
    unattacked = Inputs(None, None, None, None, 0.05, None, None, 1e-3)
    return {
        "detection": ("training set", unpoisoned if control else Detection(0.9, 0.8, 0.1, 0.7, 0.05, 0.6, 0.2)),
        "decision": ("training set", decision),
        "inputs": ("inputs", unattacked if control else Inputs(0.9, 0.95, 0.3, 0.6, 0.05, 0.6, 0.1, 1e-3)),
        "verdict": ("model", Judgement(2.5, not control, [] if control else [0], None if control else True)),
    }


def _facts(control: bool) -> dict[str, Any]:
    attacked = {"poisons": 6, "covers": 2, "attacked": 15, "bystanders": 5, "targets": [0, 1], "challenge": "0" * 32}
    clean = {"poisons": 0, "covers": 0, "attacked": 0, "bystanders": 0, "targets": [], "challenge": ""}
    return {
        "train": 60,
        "test": 20,
        "reserve": 3,
        "classes": 4,
        "shape": [8, 8, 1],
        "source": "0" * 32,
        "fingerprint": "0" * 32,
        "poisoned": "0" * 32,
        **(clean if control else attacked),
    }
