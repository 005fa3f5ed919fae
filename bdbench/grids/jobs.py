"""A job carried out: cells claimed, run and kept, so that several processes share them and none ends the others."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bdbench.components import configs, guard
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Source
from bdbench.errors import BdbenchError, one_line
from bdbench.grids.board import Board
from bdbench.grids.grid import Job
from bdbench.images.preparation import source_of
from bdbench.progress import Progress, Silent
from bdbench.registry.plugins import installed
from bdbench.storage import claims
from bdbench.storage.claims import Claim
from bdbench.storage.record import Record
from bdbench.storage.store import key_of

if TYPE_CHECKING:
    from bdbench.cells.bench import Spread
    from bdbench.cells.cell import Cell


@dataclass(frozen=True)
class Workplace:
    """Where jobs read and write, and with what. On a cluster, every machine must see the same folders.

    board: the leaderboard's folder; out: runs and stage results; precision: "auto" or that of large products; threads:
    CPU threads of a job, None for as many as are free; cell_seconds: how long a cell may take, and before it what the
    cells of a job share, None: as long as it takes; since: when this began, in seconds of the clock.
    """

    board: Path
    out: Path
    device: str = "auto"
    precision: str = "auto"
    data_root: Path | None = None
    download: bool = False
    threads: int | None = None
    cell_seconds: float | None = None
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Done:
    """What came of a job.

    records: how many were made here; errors: of each defense that has no record, by its spec; elsewhere: how many
    records another process made meanwhile; left: defenses that others are at; broken: what is wrong with plugins.
    """

    job: Job
    records: int = 0
    errors: tuple[tuple[str, str], ...] = ()
    elsewhere: int = 0
    left: tuple[Defense, ...] = ()
    broken: tuple[str, ...] = ()

    def with_rest(self, rest: Done) -> Done:
        """What came of the job altogether, when what was left of it is done."""
        errors = self.errors + rest.errors
        return Done(
            self.job, self.records + rest.records, errors, self.elsewhere + rest.elsewhere, rest.left, rest.broken
        )


def carry_out(
    job: Job,
    place: Workplace,
    progress: Progress | None = None,
    spread: Spread | None = None,
    wait: bool = True,
) -> Done:
    """Run a job and keep its records, or the errors of what failed, in the leaderboard's folder.

    wait: for other processes that are at cells of it, to see what becomes of those; else they are left.
    """
    return _Work(job, place, Board(place.board), progress or Silent(), spread, wait).done()


@dataclass
class _Work:
    """A job in this process's hands. Cells are claimed one by one, and before them what they share."""

    job: Job
    place: Workplace
    board: Board
    progress: Progress
    spread: Spread | None
    wait: bool
    records: int = 0
    elsewhere: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    left: list[Defense] = field(default_factory=list)

    def done(self) -> Done:
        """Do the work, and say what came of it."""
        open_ = [d for d in self.job.defenses if not self._settled(d)]
        if open_:
            with claims.attempt(self.board.claim_of(self.job), self._code(), self.wait) as claim:
                shared = self._shared(claim, open_)
            for defense in open_:
                self._one(defense, shared)
        broken = tuple(installed().errors())
        return Done(self.job, self.records, tuple(self.errors), self.elsewhere, tuple(self.left), broken)

    def _shared(self, claim: Claim | None, defenses: Sequence[Defense]) -> Cell | Exception | None:
        """The cell with what all defenses share made, or what that failed with; None: another process is making it."""
        if claim is None:
            return None
        if claim.hopeless:
            return _dead(claim)
        try:
            return self._prepared(defenses)
        except Exception as error:
            return error

    def _prepared(self, defenses: Sequence[Defense]) -> Cell:
        from bdbench import experiment

        job, place = self.job, self.place
        cell = experiment.cell(
            dataset=job.dataset,
            model=job.model,
            attack=job.attack,
            seed=job.seed,
            budget=job.budget,
            reserve=job.reserve,
            floor=job.floor,
            device=place.device,
            precision=place.precision,
            threads=place.threads,
            out=place.out,
            data_root=place.data_root,
            download=place.download,
            cell_seconds=place.cell_seconds,
            progress=self.progress,
            spread=self.spread,
        )
        cell.prepare(defenses)
        return cell

    def _one(self, defense: Defense, shared: Cell | Exception | None) -> None:
        """A cell: claimed, run, and kept, unless another process has it or had it."""
        if shared is None:
            self.left.append(defense)
            return
        with claims.attempt(self.board.claim_of(self.job, defense), self._code(defense), self.wait) as claim:
            if claim is None:
                self.left.append(defense)
            elif not self._settled(defense):
                self._kept(defense, _dead(claim) if claim.hopeless else self._outcome(shared, defense))

    def _outcome(self, shared: Cell | Exception, defense: Defense) -> Record | Exception:
        if isinstance(shared, Exception):
            # In what all defenses share, so that it is the error of each.
            return shared
        try:
            return next(shared.run([defense]))
        except Exception as error:
            return error

    def _settled(self, defense: Defense) -> bool:
        """Whether another process has done a cell since this one began; then it is noted."""
        state = self.board.settled(self.job, defense, self.place.since)
        if state == "failed":
            error = self.board.failure_of(self.job, defense)
            self.errors.append((configs.spec(defense.config()), f"{error} (in another process)"))
        self.elsewhere += state == "recorded"
        return state is not None

    def _kept(self, defense: Defense, outcome: Record | Exception) -> None:
        try:
            if not isinstance(outcome, Exception):
                self.board.add(outcome.to_dict())
                self.records += 1
                return
        except Exception as error:
            outcome = error
        self.errors.append(failed(self.job, defense, outcome, self.board))

    def _code(self, defense: Defense | None = None) -> str:
        """By what a claim knows that work is tried anew: the code and files of the components in it."""
        return key_of({**self.job.code(defense), "files": self.job.files(defense)})


def with_data(jobs: Sequence[Job], source: Source, progress: Progress) -> list[Job]:
    """The jobs with a hash of what their data sets hold today; of those that are there."""
    held: dict[str, str] = {}
    for dataset in {configs.short_spec(job.dataset): job.dataset for job in jobs}.values():
        # What is wrong with one that does not read is said before its cells begin.
        with contextlib.suppress(Exception), guard.call(dataset):
            held[configs.short_spec(dataset)] = source_of(dataset.read(source), progress.track)
    return [replace(job, data=held.get(configs.short_spec(job.dataset), "")) for job in jobs]


def check_data(jobs: Sequence[Job], source: Source) -> None:
    """Raise BdbenchError if a data set of the jobs is not there, before each of its cells fails of it by itself."""
    datasets = {configs.short_spec(job.dataset): job.dataset for job in jobs if not job.data}
    there = {configs.short_spec(job.dataset) for job in jobs if job.data}
    for spec, dataset in datasets.items():
        try:
            with guard.call(dataset):
                dataset.read(source)
        except BdbenchError as error:
            others = " ".join(f"--only dataset={other}" for other in [*there, *datasets] if other != spec)
            hint = f"; without it: {others}" if others else ""
            raise BdbenchError(f"{installed().told(error)}{hint}") from None
        except Exception:
            pass  # no mistake in what was asked for: it is recorded with each of its cells


class Dead(BdbenchError):
    """Why a cell is not tried any more. trace: where the last crash was, if that is known."""

    trace: str = ""


def _dead(claim: Claim) -> Dead:
    why = f"crashed {claim.crashed} times" if claim.crashed else f"was killed {claim.died} times"
    where = next((line for line in claim.trace.splitlines() if "Fatal" in line), "")
    error = Dead(
        f"the process that worked on it {why}{f' ({where})' if where else ''}: it is not tried again before its code "
        f"changes or {claim.path} is removed"
    )
    error.trace = claim.trace
    return error


def failed(job: Job, defense: Defense, error: BaseException, board: Board) -> tuple[str, str]:
    """Keep what a cell failed with, if that can be; its spec, and the error in a line."""
    text = installed().told(error)
    plain = error.trace if isinstance(error, Dead) else ""
    trace = plain if isinstance(error, BdbenchError) else "".join(traceback.format_exception(error))
    try:
        board.fail(job.config(defense), job.seed, text, trace)
    except Exception as trouble:
        text += f" (which could not be kept: {one_line(trouble)})"
    return configs.spec(defense.config()), text
