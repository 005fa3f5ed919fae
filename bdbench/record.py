"""The record of a run: its fields, its schema, and how it is written and read. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.store import written_whole

SCHEMA = "bdbench.record/1"


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
        return cls(**{**data, **built})


def labels(components: Sequence[Mapping[str, Any]], always: tuple[str, ...] = ()) -> list[str]:
    """A short name for each component of a record's config: its name, and those of its parameters that tell
    it from its namesakes in the list or are named in ``always``.
    """
    result = []
    for own in components:
        namesakes = [c for c in components if c["name"] == own["name"]]
        told = [k for k, v in own.items() if k != "name" and (k in always or any(c.get(k) != v for c in namesakes))]
        values = {k: "+".join(map(str, own[k])) if isinstance(own[k], list) else own[k] for k in told}
        result.append(" ".join([own["name"], *(f"{k}={v}" for k, v in values.items())]))
    return result


def schema() -> dict[str, Any]:
    """The JSON schema of record.json."""
    return json.loads(resources.files("bdbench").joinpath("record.schema.json").read_text())


def validate(data: Any, where: str = "record") -> None:
    """Raise BdbenchError unless ``data`` is a valid record of this version."""
    import jsonschema

    if isinstance(data, dict) and data.get("schema") != SCHEMA:
        raise BdbenchError(f"{where}: schema {data.get('schema')!r} is not supported: expected {SCHEMA!r}")
    try:
        jsonschema.validate(data, schema())
    except jsonschema.ValidationError as error:
        place = "/".join(map(str, error.absolute_path)) or "top level"
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
    file = path / "record.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        raise BdbenchError(f"no record at {path}: expected a run's folder or a record.json") from None
    except (OSError, ValueError) as error:
        raise BdbenchError(f"cannot read the record {file}: {error}") from None
    validate(data, str(file))
    return Record.from_dict(data)
