"""The record of a run: its fields, its schema, and how it is written and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.storage import schemas
from bdbench.storage.files import read_json
from bdbench.storage.store import key_of, written_whole

SCHEMA = "bdbench.record/2"
# Of which records can be read: what was measured by other definitions is shown, and refused by leaderboards.
_DIGEST = "digest"
_OLDER = "bdbench.record/1"
# The version of the definitions in ``bdbench.cells.metrics``, and of how data are prepared and models compared:
# numbers of two versions are not to be put in one table.
DEFINITIONS = 2
# What lies beside a record.json: scores, roles, and what was kept.
ARRAYS = "scores.npz"
# The stages that the defenses of one poisoned set share; the others are a defense's own.
SHARED_STAGES = ("data", "craft", "poison", "victim", "reference")
# Of a detector: the training without what it flags itself.
BY_DECISION = "retrain by decision"


# What the model of a defense is compared with, by the defense's stage: the victim, or plain training by our own recipe.
BASES = {
    "training set": "reference",
    "training time": "reference",
    "repair": "before",
    "inputs": "before",
    "model": "before",
}


@dataclass(frozen=True)
class Performance:
    """What one model did, in 0..1; null where nothing is attacked, or there are no bystanders.

    by_goal: the attack success rate of each goal, where there are several; worst_goal: the highest of them. Defined in
    ``bdbench.cells.metrics``.
    """

    clean_accuracy: float
    attack_success_rate: float | None
    robust_accuracy: float | None
    by_goal: dict[str, float] | None = None
    worst_goal: float | None = None
    bystander_accuracy: float | None = None
    spill: float | None = None


@dataclass(frozen=True)
class Detection:
    """How the scores of training examples rank the poisons. budget: the fraction removed; null: none was asked for.

    Defined in ``bdbench.cells.metrics``.
    """

    auroc: float | None
    average_precision: float | None
    budget: float | None
    tpr_at_budget: float | None
    fpr_at_budget: float | None
    tpr_at_1pct_fpr: float | None
    cover_flagged: float | None


@dataclass(frozen=True)
class Decision:
    """What the defense itself would remove. flagged: the share of the training set; the rest as in Detection.

    after: the model trained without it, which is the reference if that is nothing; null if none was trained.
    """

    flagged: float
    tpr: float | None
    fpr: float | None
    precision: float | None
    cover_flagged: float | None
    after: Performance | None
    defense_effectiveness_rating: float | None
    signed: float | None


@dataclass(frozen=True)
class Inputs:
    """How the scores of test-time inputs tell those with the trigger. Defined in ``bdbench.cells.metrics``.

    obeyed: of the attacked inputs on which the victim obeys alone; fpr, tpr, bystander_fpr: at the threshold that
    refuses 5 % of the reserve; null without a reserve. seconds_per_input: of scoring.
    """

    auroc: float | None
    auroc_obeyed: float | None
    tpr_at_1pct_fpr: float | None
    tpr_at_5pct_fpr: float | None
    fpr: float | None
    tpr: float | None
    bystander_fpr: float | None
    seconds_per_input: float


@dataclass(frozen=True)
class Judgement:
    """What a model detector says of the victim: see ``bdbench.Verdict``.

    hit: whether the targets that it names are the attacker's, or among them; null if it names none, or no name can be
    wrong (``names_tell``).
    """

    score: float
    flagged: bool
    targets: list[int]
    hit: bool | None


@dataclass(frozen=True)
class Stealth:
    """How far the attacked test images are from the images they were made of; null where none was changed.

    Defined in ``bdbench.cells.stealth``.
    """

    psnr: float | None
    ssim: float | None
    largest_change: int | None


@dataclass(frozen=True)
class Derived:
    """Numbers made of the others: DER, and the same without clips, which no noise can bias."""

    defense_effectiveness_rating: float | None
    signed: float | None = None


@dataclass(frozen=True)
class Cost:
    """seconds: wall time per stage, of the computation even if its result was reused; those of SHARED_STAGES are the
    cell's, the others the defense's. models_trained: by the defense, its retraining included. peak_memory_mb: of the
    process while the defense was at work.
    """

    seconds: dict[str, float]
    models_trained: int
    peak_memory_mb: float


@dataclass(frozen=True)
class Record:
    """Everything that is known of one cell: one attack, one defense, one seed.

    stage, access: the defense's; control: nothing was attacked; before: the victim; reference: plain training on the
    whole set by the stream that is used after removal; after: with the defense; null where it changed no model;
    stealth: of the attack; null where nothing is attacked, and in records made before it was measured; floor: a model
    trained on the clean set, tried with the same challenge; null unless it was asked for; arrays: a digest of what is
    in the scores.npz beside it (``beside.digest``); null in records made before there was one.
    """

    id: str
    seed: int
    stage: str
    control: bool
    config: dict[str, Any]
    oracles: list[str]
    access: list[str]
    environment: dict[str, Any]
    before: Performance
    reference: Performance | None
    after: Performance | None
    cost: Cost
    detection: Detection | None = None
    decision: Decision | None = None
    inputs: Inputs | None = None
    verdict: Judgement | None = None
    stealth: Stealth | None = None
    floor: Performance | None = None
    arrays: str | None = None
    p_value: float | None = None
    derived: Derived = field(default_factory=lambda: Derived(None))
    extra: dict[str, float | None] = field(default_factory=dict)
    schema: str = SCHEMA
    definitions: int = DEFINITIONS

    @property
    def base(self) -> Performance:
        """What the model after is compared with: of a record of version 1 always the victim."""
        return self.reference if BASES[self.stage] == "reference" and self.reference else self.before

    def to_dict(self) -> dict[str, Any]:
        """The record as record.json holds it, with a digest by which damage is noticed."""
        return _signed(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The record that ``data``, what a record.json holds, describes. Raises BdbenchError if it is not valid."""
        return cls.of(_checked(data, "record"))

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Record:
        """The record of valid data in the shape of this version."""
        parts: dict[str, Any] = {
            **dict.fromkeys(("before", "reference", "floor", "after"), Performance),
            "detection": Detection, "inputs": Inputs, "verdict": Judgement, "stealth": Stealth, "derived": Derived,
            "cost": Cost,
        }  # fmt: skip
        built = {name: kind(**data[name]) if data.get(name) is not None else None for name, kind in parts.items()}
        if data["decision"] is not None:
            after = data["decision"]["after"]
            built["decision"] = Decision(**{**data["decision"], "after": after and Performance(**after)})
        return cls(**{**data, **built})


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A valid record in the shape of this version. One of version 1 keeps its name and its definitions."""
    if data["schema"] == SCHEMA:
        return dict(data)
    detection = dict(data["detection"]) if data["detection"] else None
    p_value = detection.pop("p_value", None) if detection else None
    removed = detection is None or detection["budget"] > 0
    if detection is not None and not removed:
        detection |= {"tpr_at_budget": None, "fpr_at_budget": None, "cover_flagged": None}
    return {
        **data,
        "stage": "repair" if detection is None else "training set",
        "control": data["before"]["attack_success_rate"] is None,
        "access": [*([] if detection is None else ["training_set"]), *data["oracles"]],
        "reference": None,
        "detection": detection,
        "after": data["after"] if removed else None,
        "derived": data["derived"] if removed else {"defense_effectiveness_rating": None},
        **dict.fromkeys(("decision", "inputs", "verdict")),
        "p_value": p_value,
        "definitions": data.get("definitions", 1),
    }


def number(data: Mapping[str, Any], path: str) -> float | None:
    """A measured number of a record, by its path such as ``decision.after.clean_accuracy``; None if there is none."""
    value: Any = data
    for key in path.split("."):
        value = None if value is None else value.get(key)
    return value


def names_tell(targets: int, classes: int) -> bool:
    """Whether a name of a target can be wrong: not where any label will do, or every one is a target."""
    return 0 < targets < classes


def schema(version: int = 2) -> dict[str, Any]:
    """The JSON schema of record.json."""
    return schemas.schema(_schema_file(version))


def validate(data: Any, where: str = "record") -> None:
    """Raise BdbenchError unless ``data`` is a valid record of this version, or of one before it."""
    if isinstance(data, dict) and data.get("schema") not in (SCHEMA, _OLDER):
        raise BdbenchError(f"{where}: schema {data.get('schema')!r} is not supported: expected {SCHEMA!r}")
    version = 1 if isinstance(data, dict) and data.get("schema") == _OLDER else 2
    schemas.check(data, _schema_file(version), "record", where)


def _schema_file(version: int) -> str:
    return f"record.schema.{version}.json"


def write(folder: Path, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
    """Write record.json and ARRAYS into ``folder``; what else lies there stays. Raises BdbenchError."""
    data = record.to_dict()
    validate(data)
    with written_whole(folder, keep_others=True) as aside:
        np.savez_compressed(aside / ARRAYS, **dict(arrays))  # type: ignore[arg-type]
        (aside / "record.json").write_text(text(data))


def text(data: Mapping[str, Any]) -> str:
    """What the file of a valid record holds: ``data`` may be what ``to_dict`` or ``load`` gives."""
    return schemas.dumps(_signed(data))


def read(path: Path) -> Record:
    """The record in a run's folder, or in a file. Raises BdbenchError if there is none or it is not valid."""
    return Record.of(load(path))


def load(path: Path) -> dict[str, Any]:
    """What ``read`` reads, as record.json holds it, or, if it is older, would hold it: see ``upgraded``."""
    file = path / "record.json" if path.is_dir() else path
    try:
        data = read_json(file)
    except FileNotFoundError:
        raise BdbenchError(f"no record at {path}: expected a run's folder or a record.json") from None
    return _checked(data, str(file))


def _checked(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The record in what a file holds, in the shape of this version. Raises BdbenchError if it is none, or damaged."""
    validate(data, where)
    # The first records had none.
    if data.get(_DIGEST) not in (None, _signed(data)[_DIGEST]):
        raise BdbenchError(f"{where}: not as it was written: its digest is of another record; run its cell again")
    facts = data["config"].get("data", {})
    if len(facts.get("target_names", facts.get("targets", []))) != len(facts.get("targets", [])):
        raise BdbenchError(f"{where}: it names other than its {len(facts['targets'])} targets: expected a name of each")
    return upgraded({key: value for key, value in data.items() if key != _DIGEST})


def _signed(data: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in data.items() if key != _DIGEST}
    return {**rest, _DIGEST: key_of(rest)}
