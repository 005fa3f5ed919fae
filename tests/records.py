"""Made-up records of version 2, and leaderboards of them; nothing is run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdbench.components import configs
from bdbench.storage import record

_COMPONENTS = {
    "dataset": {"name": "digits", "subset": None},
    "model": {"name": "convnet", "width": 4},
    "attack": {"name": "badnets", "rate": 0.05, "target": 0},
    "defense": {"name": "random"},
}
_ACCESS = {"training set": ["training_set"], "training time": ["training_set"]}
_FACTS = {
    "train": 1000, "test": 400, "reserve": 50, "classes": 10, "shape": [8, 8, 1], "source": "a" * 32,
    "fingerprint": "f", "poisons": 50, "covers": 0, "attacked": 360, "bystanders": 0, "targets": [0],
    "poisoned": "p", "challenge": "c",
}  # fmt: skip


def performance(clean: float, attack: float | None) -> dict[str, Any]:
    """What a model did."""
    return {
        "clean_accuracy": clean,
        "attack_success_rate": attack,
        "robust_accuracy": None if attack is None else 1 - attack,
        **dict.fromkeys(("by_goal", "worst_goal", "bystander_accuracy", "spill")),
    }


def detection(auroc: float | None = 0.9, budget: float | None = 0.1, tpr: float | None = 0.8) -> dict[str, Any]:
    """How scores rank the poisons."""
    return {
        "auroc": auroc, "average_precision": auroc, "budget": budget, "tpr_at_budget": tpr if budget else None,
        "fpr_at_budget": 0.06 if budget else None, "tpr_at_1pct_fpr": tpr, "cover_flagged": None,
    }  # fmt: skip


def decision(flagged: float, asr_after: float | None, tpr: float | None = 0.9, ca_after: float = 0.9) -> dict[str, Any]:
    """What a defense itself would remove."""
    return {
        "flagged": flagged, "tpr": tpr, "fpr": 0.01, "precision": 0.8 if tpr is not None else 0.0,
        "cover_flagged": None, "after": performance(ca_after, asr_after), "defense_effectiveness_rating": None,
        "signed": None,
    }  # fmt: skip


def inputs(auroc: float) -> dict[str, Any]:
    """How scores of inputs tell those with the trigger."""
    numbers = dict.fromkeys(("auroc", "auroc_obeyed", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr", "tpr"), auroc)
    return {**numbers, "fpr": 0.05, "bystander_fpr": None, "seconds_per_input": 0.002}


def verdict(score: float, flagged: bool, hit: bool | None = None) -> dict[str, Any]:
    """What a model detector says."""
    return {"score": score, "flagged": flagged, "targets": [0] if hit else [], "hit": hit}


def made(
    seed: int = 0,
    *,
    stage: str = "training set",
    asr: float | None = 0.02,
    ca: float = 0.95,
    before: tuple[float, float | None] = (0.96, 0.99),
    auroc: float | None = 0.9,
    control: bool = False,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    oracles: Sequence[str] = (),
    **changes: Any,
) -> dict[str, Any]:
    """A valid record. parts: components in place of the usual ones, by kind; facts, config: in place of what the record
    says of its data and in its config; asr, ca: after the defense; before: CA and ASR of victim and reference.
    """
    if control:
        parts = {"attack": {"name": "none"}, **(parts or {})}
        before, asr, auroc = (before[0], None), None, None
        facts = {"poisons": 0, "attacked": 0, "targets": [], **(facts or {})}
    components = {**_COMPONENTS, **(parts or {})}
    acts = stage in ("training set", "training time")
    own: dict[str, Any] = {
        **components,
        "budget": 0.1 if stage == "training set" else None,
        "reserve": 0.05,
        "recipe": {"epochs": 2},
        "data": {**_FACTS, **(facts or {})},
        "files": {},
        "code": {kind: f"{kind[0]}1" * 8 for kind in ("model", "attack", "defense")},
        **(config or {}),
    }
    base = performance(*before)
    signed = None if asr is None or before[1] is None else (before[1] - asr - (before[0] - ca) + 1) / 2
    data: dict[str, Any] = {
        "schema": record.SCHEMA,
        "definitions": record.DEFINITIONS,
        "id": "-".join([*(components[kind]["name"] for kind in configs.KINDS), f"s{seed}", configs.identity(own)]),
        "seed": seed,
        "stage": stage,
        "control": control,
        "config": own,
        "oracles": list(oracles),
        "access": [*_ACCESS.get(stage, []), *oracles],
        "environment": {
            "versions": {"torch": "2"}, "device": "cpu", "processor": "a processor", "precision": "float32",
            "threads": 2, "commit": None,
        },
        "before": base,
        "reference": base if acts else None,
        "after": performance(ca, asr) if stage != "model" else None,
        "detection": None,
        **dict.fromkeys(("decision", "inputs", "verdict", "p_value")),
        "derived": {"defense_effectiveness_rating": None if signed is None else min(signed, 1.0), "signed": signed},
        "cost": {"seconds": {"data": 0.1, "victim": 2.0, "score": 3.0}, "models_trained": 1, "peak_memory_mb": 99.0},
        "extra": {},
    }  # fmt: skip
    if stage == "training set":
        data["detection"] = detection(auroc, tpr=None if control else 0.8)
    return copy.deepcopy({**data, **changes})


def defense(name: str, **parameters: Any) -> dict[str, Any]:
    """``parts`` with another defense."""
    return {"defense": {"name": name, **parameters}}


def attack(name: str, **parameters: Any) -> dict[str, Any]:
    """``parts`` with another attack."""
    return {"attack": {"name": name, **parameters}}


def keep(folder: Path, *records: Mapping[str, Any]) -> Path:
    """Put records into a leaderboard; names are made apart where ids are the same."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for data in records:
        record.validate(data)
        file = folder / "records" / f"{data['id']}.json"
        while file.exists():
            file = file.with_stem(f"{file.stem}-again")
        file.write_text(record.text(data))
    return folder


def make_board(folder: Path) -> Path:
    """A leaderboard: blend and the control, against three defenses of the training set, on seeds 0 to 2.

    The better a defense's AUROC, the less of the attack it leaves: random, low-loss, spectral, in this order. The
    components are those that are installed.
    """
    from bdbench.grids.grid import Job
    from bdbench.registry.plugins import installed

    def component(kind: str, spec: str) -> Any:
        return installed().component(kind, spec)

    for name in ("blend", "none"):
        for level, spec in enumerate(("random", "low-loss", "spectral")):
            for seed in range(3):
                job = Job(
                    component("dataset", "digits"), component("model", "convnet"), component("attack", name),
                    (component("defense", spec),), seed, 0.1, 0.05,
                )  # fmt: skip
                configs = {kind: getattr(job, kind).config() for kind in ("dataset", "model", "attack")}
                data = made(
                    seed,
                    control=name == "none",
                    asr=0.9 - 0.4 * level + 0.01 * seed,
                    auroc=0.5 + 0.2 * level + 0.01 * seed,
                    parts={**configs, "defense": job.defenses[0].config()},
                    config={"code": job.code(job.defenses[0])},
                )
                keep(folder, {**data, "id": f"{name}-{spec}-{seed}"})
    return folder


def dumped(data: Mapping[str, Any], file: Path) -> Path:
    """A record in a file of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
    return file
