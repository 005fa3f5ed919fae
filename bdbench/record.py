"""The record of a run: its fields, its schema, and how it is written and read. Imports no torch."""

from __future__ import annotations

import functools
import itertools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.files import read_json
from bdbench.params import plain, quoted
from bdbench.store import key_of, written_whole

SCHEMA = "bdbench.record/2"
# Of which records can be read: what was measured by other definitions is shown, and refused by leaderboards.
_OLDER = "bdbench.record/1"
# The version of the definitions in ``bdbench.metrics``, and of how data are prepared and models compared: numbers of
# two versions are not to be put in one table.
DEFINITIONS = 2
KINDS = ("dataset", "model", "attack", "defense")
# The stages that the defenses of one poisoned set share; the others are a defense's own.
SHARED_STAGES = ("data", "craft", "poison", "victim", "reference")


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
    ``bdbench.metrics``.
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

    Defined in ``bdbench.metrics``.
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
    """How the scores of test-time inputs tell those with the trigger. Defined in ``bdbench.metrics``.

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

    hit: whether the targets that it names are the attacker's, or among them; null if it names none or there are none.
    """

    score: float
    flagged: bool
    targets: list[int]
    hit: bool | None


@dataclass(frozen=True)
class Stealth:
    """How far the attacked test images are from the images they were made of; null where none was changed.

    Defined in ``bdbench.stealth``.
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
    trained on the clean set, tried with the same challenge; null unless it was asked for.
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
        """The record as record.json holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The record that ``data`` describes. Raises BdbenchError if it is not valid."""
        validate(data)
        return cls.of(upgraded(data))

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


def parameters(component: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a component's config; none that is null, so that a new one changes no old cell."""
    told = {k: v for k, v in component.items() if k != "name" and v is not None}
    return {k: [{"name": p["name"], **parameters(p)} for p in v] if _of_others(v) else v for k, v in told.items()}


def parts(component: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configs of the components that one is made of, each followed by those that it is made of."""
    own = [one for value in component.values() if _of_others(value) for one in value]
    return [part for one in own for part in (one, *parts(one))]


def _of_others(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def cell_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a user asks for, seeds apart: the components, the budget and the reserve."""
    parts = {kind: {"name": config[kind]["name"], **parameters(config[kind])} for kind in KINDS}
    return {**parts, "budget": config["budget"], "reserve": config.get("reserve", 0.0)}


def made_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What it was made of beside that: the data set as it was read, the recipe, files, and the components' code.

    Records of one cell that differ here are of two experiments, and in no average together.
    """
    return {
        "source": config.get("data", {}).get("source", ""),
        "recipe": config["recipe"],
        "files": sorted(config.get("files", {}).values()),
        "code": config.get("code", {}),
    }


def identity(config: Mapping[str, Any]) -> str:
    """A hash of ``made_of``, 8 hexadecimal digits."""
    return key_of(made_of(config))[:8]


def check_budget(budget: Any) -> float | Literal["auto"]:
    """The share of the training set to remove, as a number, or "auto". Raises BdbenchError unless it is in [0, 1)."""
    if budget == "auto":
        return "auto"
    try:
        share = float(budget) if not isinstance(budget, bool) else -1.0
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share < 1:
        raise BdbenchError(f"budget={budget} is not allowed: expected a fraction in [0, 1), or auto")
    return share


def check_reserve(reserve: Any) -> float:
    """The share of the training part that is set apart, as a number. Raises BdbenchError unless it is in [0, 1)."""
    reserve = plain(reserve)
    if isinstance(reserve, bool) or not isinstance(reserve, int | float) or not 0 <= reserve < 1:
        raise BdbenchError(f"reserve={reserve} is not allowed: expected a share in [0, 1)")
    return float(reserve)


def number(data: Mapping[str, Any], path: str) -> float | None:
    """A measured number of a record, by its path such as ``decision.after.clean_accuracy``; None if there is none."""
    value: Any = data
    for key in path.split("."):
        value = None if value is None else value.get(key)
    return value


def targets(facts: Mapping[str, Any]) -> list[str]:
    """The labels that triggers are to give, of the ``data`` in a config, each with its class's name if it has one."""
    names = facts.get("target_names", [""] * len(facts["targets"]))
    return [f"{t} ({name})" if name else str(t) for t, name in zip(facts["targets"], names, strict=True)]


def spec(component: Mapping[str, Any]) -> str:
    """A component's config as the command line takes it: ``name:key=value,...``."""
    values = ",".join(f"{k}={quoted(v) if isinstance(v, str) else shown(v)}" for k, v in parameters(component).items())
    return f"{component['name']}:{values}" if values else component["name"]


def command(config: Mapping[str, Any], seed: int) -> str:
    """The command that makes the record of ``config`` and ``seed``, for a shell."""
    options = {**{kind: spec(config[kind]) for kind in KINDS}, "budget": config["budget"], "seed": seed}
    options |= {"reserve": config["reserve"]} if "reserve" in config else {}
    words = [word for k, v in options.items() if v is not None for word in (f"--{k}", f"{v}")]
    return shlex.join(["bdbench", "run", *words])


def shown(value: Any) -> str:
    """A parameter's value in a config as the command line takes it."""
    if _of_others(value):
        return "+".join(f"[{text}]" if ":" in text else text for text in map(spec, value))
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def labels(components: Sequence[Mapping[str, Any]], always: tuple[str, ...] = ()) -> list[str]:
    """A short name for each component of a record's config: its name, and those of its parameters that tell
    it from its namesakes in the list or are named in ``always``. One that is made of others names them likewise.
    """
    inner = [part for own in components for v in own.values() if _of_others(v) for part in v]
    named = iter(labels(inner, always) if inner else ())
    told: dict[str, set[str]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for own in components:
        other = first.setdefault(own["name"], own)
        differing = {k for k in {*own, *other} if own.get(k) != other.get(k)}
        told.setdefault(own["name"], set(always)).update(differing)
    return [
        " ".join(
            [
                own["name"],
                *(
                    " & ".join(itertools.islice(named, len(v))) if _of_others(v) else f"{k}={shown(v)}"
                    for k, v in own.items()
                    if _of_others(v) or k in told[own["name"]]
                ),
            ]
        )
        for own in components
    ]


def schema(version: int = 2) -> dict[str, Any]:
    """The JSON schema of record.json."""
    return json.loads(resources.files("bdbench").joinpath(f"record.schema.{version}.json").read_text())


@functools.cache
def _quick_validator(version: int) -> Callable[[Any], Any]:
    """Compiled from the schema: tables are made of thousands of records."""
    import fastjsonschema

    return fastjsonschema.compile(schema(version))


def validate(data: Any, where: str = "record") -> None:
    """Raise BdbenchError unless ``data`` is a valid record of this version, or of one before it."""
    if isinstance(data, dict) and data.get("schema") not in (SCHEMA, _OLDER):
        raise BdbenchError(f"{where}: schema {data.get('schema')!r} is not supported: expected {SCHEMA!r}")
    import fastjsonschema

    try:
        _quick_validator(1 if isinstance(data, dict) and data.get("schema") == _OLDER else 2)(data)
    except fastjsonschema.JsonSchemaValueException as error:
        place = "/".join(error.path[1:]) or "top level"
        raise BdbenchError(f"{where}: not a valid record at {place}: {error.message}") from None


def write(folder: Path, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
    """Write record.json and scores.npz into ``folder``; what else lies there stays. Raises BdbenchError."""
    data = record.to_dict()
    validate(data)
    with written_whole(folder, keep_others=True) as aside:
        np.savez_compressed(aside / "scores.npz", **dict(arrays))  # type: ignore[arg-type]
        (aside / "record.json").write_text(dumps(data))


def dumps(data: Mapping[str, Any]) -> str:
    """A record as text: the same record always gives the same text."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


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
    validate(data, str(file))
    return upgraded(data)
