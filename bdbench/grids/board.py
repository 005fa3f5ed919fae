"""The files of a leaderboard that runs fill: its records, and what is known of the cells that failed."""

from __future__ import annotations

import contextlib
import functools
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bdbench.components import configs
from bdbench.components.defenses import Defense
from bdbench.errors import BdbenchError
from bdbench.grids.grid import Grid, Job
from bdbench.grids.grid import read as read_grid
from bdbench.storage import record, schemas
from bdbench.storage.files import notice, read_json
from bdbench.storage.store import key_of, write_file

State = Literal["recorded", "stale", "failed", "not run"]
# Who works on what; empty while nobody does.
_CLAIMS = ".claims"


@dataclass
class Board:
    """A leaderboard's folder.

    records: what record.json holds, by file name; failed: the error of each cell and seed, by their hash;
    unreadable: what is wrong with each file that does not read, by its name: the others count all the same.
    """

    folder: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Board:
        """What is there; what does not read is told of. Raises BdbenchError for a record of other definitions."""
        board = cls(folder)
        for file in sorted((folder / "records").glob("*.json")):
            with board._unless_unreadable(file):
                board.records[file.name] = record.load(file)
        for name, data in board.records.items():
            check_definitions(data, folder / "records" / name)
        for file in sorted((folder / "failed").glob("*.json")):
            with board._unless_unreadable(file):
                key, error = _failed(file)
                board.failed[key] = error
        return board

    @contextmanager
    def _unless_unreadable(self, file: Path) -> Iterator[None]:
        """Note that ``file`` is left out if a BdbenchError is raised inside."""
        try:
            yield
        except FileNotFoundError:  # another process has just removed it
            pass
        except BdbenchError as error:
            self.unreadable[file.name] = str(error)
            notice(f"left out: {error}")

    @functools.cached_property
    def grid(self) -> Grid | None:
        """What it is to hold; None without a grid.toml. Raises BdbenchError if that cannot be read."""
        file = self.folder / "grid.toml"
        return read_grid(file) if file.exists() else None

    @functools.cached_property
    def known(self) -> dict[str, list[dict[str, Any]]]:
        """The cells and seeds of the records, and the records of each of them."""
        found: dict[str, list[dict[str, Any]]] = {}
        for data in self.records.values():
            found.setdefault(_key(configs.cell_of(data["config"]), data["seed"]), []).append(data)
        return found

    def error(self, cell: Mapping[str, Any], seed: int) -> str | None:
        """What a cell failed with, if it has no record."""
        return None if self.has(cell, seed) else self.failed.get(_key(cell, seed))

    def has(self, cell: Mapping[str, Any], seed: int) -> bool:
        """Whether there is a record of a cell (``configs.cell_of``) and a seed, whatever code made it."""
        return _key(cell, seed) in self.known

    def state(self, job: Job, defense: Defense) -> State:
        """What is known of a cell.

        It is stale if no record of it is of today's code, data and contents of files, and has a floor if that is asked.
        """
        key = _key(job.config(defense), job.seed)
        made = self.known.get(key, [])
        if made:
            code, files = job.code(defense), job.files(defense)
            usable = [data["config"] for data in made if not job.floor or _has_floor(data)]
            if any(code == config["code"] and _holds(config, files, job.data) for config in usable):
                return "recorded"
        return "failed" if key in self.failed else "stale" if made else "not run"

    def pending(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs, each with the defenses that apply and have no record by today's code yet; those that failed are
        tried again.
        """
        left = []
        for job in jobs:
            defenses = tuple(d for d in job.applicable if self.state(job, d) != "recorded")
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
            cell, seconds = configs.cell_of(r["config"]), r["cost"]["seconds"]
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
        """Keep a record, in place of any other of its cell and seed; a failure is forgotten."""
        folder = self.folder / "records"
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{data['id']}.json"
        write_file(own, record.text(data))
        cell = configs.cell_of(data["config"])
        # By their names, since others may be writing records here that need not be read.
        for file in folder.glob(glob.escape(f"{_names(cell)}-s{data['seed']}-") + "*.json"):
            with contextlib.suppress(OSError):
                if file != own and _same_cell(file, data):
                    file.unlink(missing_ok=True)
        failure = self._failure(cell, data["seed"])
        for file in (failure, failure.with_suffix(".txt")):
            with contextlib.suppress(OSError):
                file.unlink()

    def fail(self, cell: Mapping[str, Any], seed: int, error: str, trace: str = "") -> None:
        """Keep the error of a cell that has no record, and beside it its traceback, if there is one.

        Raises BdbenchError if that cannot be written.
        """
        file = self._failure(cell, seed)
        write_file(file, schemas.dumps({"cell": cell, "seed": seed, "error": error}))
        if trace:
            write_file(file.with_suffix(".txt"), trace)
        else:
            with contextlib.suppress(OSError):
                file.with_suffix(".txt").unlink()

    def settled(self, job: Job, defense: Defense, since: float) -> State | None:
        """Whether a cell is recorded, or has failed after ``since`` (seconds of the clock), as the disk has it now."""
        cell = job.config(defense)
        files = (self.folder / "records").glob(glob.escape(f"{_names(cell)}-s{job.seed}-") + "*.json")
        now = Board(self.folder)
        for file in files:
            with contextlib.suppress(BdbenchError):
                now.records[file.name] = record.load(file)
        if now.state(job, defense) == "recorded":
            return "recorded"
        with contextlib.suppress(OSError):
            if self._failure(cell, job.seed).stat().st_mtime >= since:
                return "failed"
        return None

    def failure_of(self, job: Job, defense: Defense) -> str:
        """The error that a cell has failed with, as the disk has it now; "" if there is none."""
        with contextlib.suppress(OSError, BdbenchError):
            return _failed(self._failure(job.config(defense), job.seed))[1]
        return ""

    def claim_of(self, job: Job, defense: Defense | None = None) -> Path:
        """The lock of a cell; without a defense, of what those of the job share."""
        if defense is not None:
            return self.folder / _CLAIMS / f"{self._failure(job.config(defense), job.seed).stem}.lock"
        shared = _setting(job.config(job.defenses[0])) | {"attack": job.attack.config(), "reserve": job.reserve}
        return self.folder / _CLAIMS / f"{job.attack.name}-s{job.seed}-{_key(shared, job.seed)[:8]}.lock"

    def _failure(self, cell: Mapping[str, Any], seed: int) -> Path:
        return self.folder / "failed" / f"{_names(cell)}-s{seed}-{_key(cell, seed)[:8]}.json"


def check_definitions(data: Mapping[str, Any], path: Path) -> None:
    """Raise BdbenchError for a record whose numbers do not mean what those of this version do."""
    if data["definitions"] != record.DEFINITIONS:
        raise BdbenchError(
            f"{path}: its numbers are defined as in version {data['definitions']} of the definitions in "
            f"bdbench.cells.metrics: expected version {record.DEFINITIONS}, since two do not compare; "
            "run its cell again"
        )


def _failed(file: Path) -> tuple[str, str]:
    """The hash of a cell and seed, and its error, in a file. Raises BdbenchError if it holds no such things."""
    data = read_json(file)
    try:
        return _key(data["cell"], data["seed"]), str(data["error"])
    except (KeyError, TypeError) as error:
        raise BdbenchError(f"{file} holds no failure: expected cell, seed and error ({error})") from None


def _has_floor(data: Mapping[str, Any]) -> bool:
    """Whether a record says what a clean model does with its challenge, or has none."""
    return data.get("floor") is not None or not data["config"]["data"].get("challenge")


def _holds(config: Mapping[str, Any], files: Mapping[str, str], data: str) -> bool:
    """Whether a record was made of these files and of this data, as far as both are known."""
    return files.items() <= config.get("files", {}).items() and (
        "" in (data, configs.source(config)) or data == configs.source(config)
    )


def _same_cell(file: Path, new: Mapping[str, Any]) -> bool:
    """Whether a file holds a record of the cell and seed of ``new``."""
    try:
        old = record.load(file)
    except BdbenchError:  # nobody knows what it is
        return False
    return bool(old["seed"] == new["seed"]) and configs.cell_of(old["config"]) == configs.cell_of(new["config"])


def _key(*parts: Any) -> str:
    return key_of({"parts": parts})


def _names(cell: Mapping[str, Any]) -> str:
    return "-".join(cell[kind]["name"] for kind in configs.KINDS)


def _setting(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What the cost of a cell hangs on, its defense apart."""
    return {kind: cell[kind] for kind in ("dataset", "model")}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
