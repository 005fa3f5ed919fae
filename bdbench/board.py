"""The files of a leaderboard that runs fill: its records, and what is known of the cells that failed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bdbench import record
from bdbench.grid import Job
from bdbench.store import key_of, write_file


@dataclass
class Board:
    """A leaderboard's folder.

    records: what record.json holds, by file name; failed: the error of each cell and seed, by their hash.
    """

    folder: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Board:
        """What is there. Raises BdbenchError for a record that is not valid."""
        records = {file.name: record.load(file) for file in sorted((folder / "records").glob("*.json"))}
        failures = [json.loads(file.read_text()) for file in sorted((folder / "failed").glob("*.json"))]
        return cls(folder, records, {_key(f["cell"], f["seed"]): f["error"] for f in failures})

    @functools.cached_property
    def known(self) -> set[str]:
        """The cells and seeds of the records."""
        return {_key(record.cell_of(r["config"]), r["seed"]) for r in self.records.values()}

    def error(self, cell: Mapping[str, Any], seed: int) -> str | None:
        """What a cell failed with, if it has no record."""
        return None if self.has(cell, seed) else self.failed.get(_key(cell, seed))

    def has(self, cell: Mapping[str, Any], seed: int) -> bool:
        """Whether there is a record of a cell (``record.cell_of``) and a seed."""
        return _key(cell, seed) in self.known

    def pending(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs, each with the defenses that have no record yet; those that failed are tried again."""
        left = []
        for job in jobs:
            defenses = tuple(d for d in job.defenses if not self.has(job.config(d), job.seed))
            if defenses:
                left.append(replace(job, defenses=defenses))
        return left

    def estimate(self, jobs: Sequence[Job]) -> tuple[float, int]:
        """Seconds that ``jobs`` may take, by the records there are, and the number of cells of which none tells.

        Too high where defenses share work, since every record holds the whole cost of its defense.
        """
        shared: dict[str, list[float]] = {}
        own: dict[str, list[float]] = {}
        for r in self.records.values():
            cell, seconds = record.cell_of(r["config"]), r["cost"]["seconds"]
            common = sum(seconds.get(stage, 0.0) for stage in record.SHARED_STAGES)
            shared.setdefault(_key(_setting(cell)), []).append(common)
            own.setdefault(_key(_setting(cell), cell["defense"]), []).append(sum(seconds.values()) - common)
        total, untold = 0.0, 0
        for job in jobs:
            cells = [job.config(defense) for defense in job.defenses]
            total += _mean(shared.get(_key(_setting(cells[0])), []))
            told = [own.get(_key(_setting(cell), cell["defense"]), []) for cell in cells]
            total += sum(map(_mean, told))
            untold += sum(not seconds for seconds in told)
        return total, untold

    def add(self, data: Mapping[str, Any]) -> None:
        """Keep a record; an earlier failure of its cell is forgotten."""
        folder = self.folder / "records"
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{data['id']}.json", record.dumps(data))
        self._failure(record.cell_of(data["config"]), data["seed"]).unlink(missing_ok=True)

    def fail(self, cell: Mapping[str, Any], seed: int, error: str) -> None:
        """Keep the error of a cell that has no record."""
        file = self._failure(cell, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, record.dumps({"cell": cell, "seed": seed, "error": error}))

    def _failure(self, cell: Mapping[str, Any], seed: int) -> Path:
        names = "-".join(cell[kind]["name"] for kind in record.KINDS)
        return self.folder / "failed" / f"{names}-s{seed}-{_key(cell, seed)[:8]}.json"


def _key(*parts: Any) -> str:
    return key_of({"parts": parts})


def _setting(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What the cost of a cell hangs on, its defense apart."""
    return {kind: cell[kind] for kind in ("dataset", "model")}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
