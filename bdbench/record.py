"""The record of a run: its fields, its schema, and how it is written and read. Imports no torch."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.store import written_whole

SCHEMA = "bdbench.record/1"
# The version of the definitions in ``bdbench.metrics`` and of the poison rate: numbers of two versions are not
# to be put in one table. A record that names none is of version 1.
DEFINITIONS = 1
KINDS = ("dataset", "model", "attack", "defense")
# The stages that the defenses of one poisoned set share; the others are a defense's own.
SHARED_STAGES = ("data", "poison", "victim")


@dataclass(frozen=True)
class Performance:
    """Accuracies of one model, in 0..1; null where nothing is attacked. Defined in ``bdbench.metrics``."""

    clean_accuracy: float
    attack_success_rate: float | None
    robust_accuracy: float | None


@dataclass(frozen=True)
class Detection:
    """How the scores rank the poisons. budget: the fraction removed. Defined in ``bdbench.metrics``.

    p_value: the defense's own, of a clean set looking as suspicious; null if it gives none.
    """

    auroc: float | None
    average_precision: float | None
    budget: float
    tpr_at_budget: float | None
    fpr_at_budget: float | None
    tpr_at_1pct_fpr: float | None
    cover_flagged: float | None
    p_value: float | None = None


@dataclass(frozen=True)
class Derived:
    """Numbers made of the others."""

    defense_effectiveness_rating: float | None


@dataclass(frozen=True)
class Cost:
    """seconds: wall time per stage, of the computation even if its result was reused; ``score`` and ``retrain``
    are the defense's. models_trained: by the defense, its retraining included. peak_memory_mb: of the process.
    """

    seconds: dict[str, float]
    models_trained: int
    peak_memory_mb: float


@dataclass(frozen=True)
class Record:
    """Everything that is known of one cell: one attack, one defense, one seed."""

    id: str
    seed: int
    config: dict[str, Any]
    oracles: list[str]
    environment: dict[str, Any]
    before: Performance
    detection: Detection | None
    after: Performance
    derived: Derived
    cost: Cost
    extra: dict[str, float | None] = field(default_factory=dict)
    schema: str = SCHEMA
    definitions: int = DEFINITIONS

    def to_dict(self) -> dict[str, Any]:
        """The record as record.json holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The record that ``data`` describes. Raises BdbenchError if it is not valid."""
        validate(data)
        parts = {"before": Performance, "after": Performance, "derived": Derived, "cost": Cost}
        built = {name: kind(**data[name]) for name, kind in parts.items()}
        built["detection"] = Detection(**data["detection"]) if data["detection"] else None
        return cls(**{"definitions": 1, **data, **built})


def parameters(component: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a component's config; none that is null, so that a new one changes no old cell."""
    return {k: v for k, v in component.items() if k != "name" and v is not None}


def cell_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two records the same cell of a table, seeds apart: the components and the budget."""
    parts = {kind: {"name": config[kind]["name"], **parameters(config[kind])} for kind in KINDS}
    return {**parts, "budget": config["budget"]}


def check_budget(budget: Any) -> float:
    """The share of the training set to remove, as a number. Raises BdbenchError unless it is in [0, 1)."""
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 <= budget < 1:
        raise BdbenchError(f"budget={budget} is not allowed: expected a fraction in [0, 1)")
    return float(budget)


def number(data: Mapping[str, Any], part: str, key: str) -> float | None:
    """A measured number of a record.json; None where it does not apply.

    So is what a removal did, where a budget of 0 asked for none: the model after is the one before.
    """
    of_removal = part in ("after", "derived") or key.endswith("_at_budget")
    if of_removal and data["detection"] and data["detection"]["budget"] == 0:
        return None
    return (data[part] or {}).get(key)


def spec(component: Mapping[str, Any]) -> str:
    """A component's config as the command line takes it: ``name:key=value,...``."""
    values = ",".join(f"{k}={_shown(v)}" for k, v in parameters(component).items())
    return f"{component['name']}:{values}" if values else component["name"]


def command(config: Mapping[str, Any], seed: int) -> str:
    """The command that makes the record of ``config`` and ``seed``, for a shell."""
    options = {**{kind: spec(config[kind]) for kind in KINDS}, "budget": config["budget"], "seed": seed}
    return shlex.join(["bdbench", "run", *(word for k, v in options.items() for word in (f"--{k}", f"{v}"))])


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def labels(components: Sequence[Mapping[str, Any]], always: tuple[str, ...] = ()) -> list[str]:
    """A short name for each component of a record's config: its name, and those of its parameters that tell
    it from its namesakes in the list or are named in ``always``.
    """
    told: dict[str, set[str]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for own in components:
        other = first.setdefault(own["name"], own)
        differing = {k for k in {*own, *other} if own.get(k) != other.get(k)}
        told.setdefault(own["name"], set(always)).update(differing)
    return [
        " ".join([own["name"], *(f"{k}={_shown(v)}" for k, v in own.items() if k in told[own["name"]])])
        for own in components
    ]


def schema() -> dict[str, Any]:
    """The JSON schema of record.json."""
    return json.loads(resources.files("bdbench").joinpath("record.schema.json").read_text())


@functools.cache
def _quick_validator() -> Callable[[Any], Any]:
    """Compiled from the schema: tables are made of thousands of records."""
    import fastjsonschema

    return fastjsonschema.compile(schema())


def validate(data: Any, where: str = "record") -> None:
    """Raise BdbenchError unless ``data`` is a valid record of this version."""
    if isinstance(data, dict) and data.get("schema") != SCHEMA:
        raise BdbenchError(f"{where}: schema {data.get('schema')!r} is not supported: expected {SCHEMA!r}")
    import fastjsonschema

    try:
        _quick_validator()(data)
    except fastjsonschema.JsonSchemaValueException as error:
        place = "/".join(error.path[1:]) or "top level"
        raise BdbenchError(f"{where}: not a valid record at {place}: {error.message}") from None


def write(folder: Path, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
    """Write record.json and scores.npz into ``folder``, replacing it whole. Raises BdbenchError."""
    data = record.to_dict()
    validate(data)
    with written_whole(folder) as aside:
        np.savez_compressed(aside / "scores.npz", **dict(arrays))  # type: ignore[arg-type]
        (aside / "record.json").write_text(dumps(data))


def dumps(data: Mapping[str, Any]) -> str:
    """A record as text: the same record always gives the same text."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Record:
    """The record in a run's folder, or in a file. Raises BdbenchError if there is none or it is not valid."""
    return Record.from_dict(load(path))


def load(path: Path) -> dict[str, Any]:
    """What ``read`` reads, as record.json holds it."""
    file = path / "record.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        raise BdbenchError(f"no record at {path}: expected a run's folder or a record.json") from None
    except (OSError, ValueError) as error:
        raise BdbenchError(f"cannot read the record {file}: {error}") from None
    validate(data, str(file))
    return data
