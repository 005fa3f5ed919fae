"""Where work runs: in this process, or on a Ray cluster. Both do the same jobs to the same records."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench import machine, record
from bdbench.board import Board
from bdbench.defenses import Defense
from bdbench.errors import BdbenchError
from bdbench.grid import Job
from bdbench.progress import Progress, Silent

if TYPE_CHECKING:
    from bdbench.tools import Spread

# A task whose worker died goes to another; one that dies this often is at fault itself.
_RETRIES = 3
# Seconds for the next piece of an ensemble to end.
_PATIENCE = 900.0


@dataclass(frozen=True)
class Workplace:
    """Where jobs read and write, and with what. On a cluster, every machine must see the same folders.

    board: the leaderboard's folder; out: runs and stage results; precision: "auto" or that of large products; threads:
    CPU threads of a job, None for as many as are free.
    """

    board: Path
    out: Path
    device: str = "auto"
    precision: str = "auto"
    data_root: Path | None = None
    download: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Done:
    """What came of a job: the number of records, and the error of each defense that has none, by its spec."""

    job: Job
    records: int
    errors: tuple[tuple[str, str], ...]


Engine = Callable[[Sequence[Job], Workplace, Progress], Iterator[Done]]


def local(jobs: Sequence[Job], place: Workplace, progress: Progress) -> Iterator[Done]:
    """One job after the other, in this process."""
    for job in jobs:
        with progress.section():
            done = carry_out(job, place, progress)
        yield done


def on_ray(address: str | None) -> Engine:
    """An engine of Ray tasks on the cluster at ``address``: 'auto', host:port, or None to start one here.

    A job is one task with ``threads`` CPUs (1 unless set) and, where it is to use one, a GPU. Tasks are idempotent:
    one whose worker died is started again elsewhere, and finds the stages that were finished. Where there are fewer
    jobs than would fit at once, the pieces of an ensemble are tasks of their own.
    """

    def run(jobs: Sequence[Job], place: Workplace, progress: Progress) -> Iterator[Done]:
        ray = _connected(address)
        try:
            cpus = place.threads or 1
            gpus = int(place.device.startswith("cuda") or (place.device == "auto" and _has_gpus(ray)))
            task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(carry_out)
            # A job that waits for its pieces gives back its CPUs but not its GPU: some must be left for them.
            spread = (
                functools.partial(_side_by_side, place.threads, gpus) if len(jobs) < _room(ray, cpus, gpus) else None
            )
            waiting: Mapping[Any, Job] = {task.remote(job, place, None, spread): job for job in jobs}
            while waiting:
                ready, _ = ray.wait(list(waiting))
                yield _result(ray, ready[0], waiting[ready[0]], place)
                waiting = {ref: job for ref, job in waiting.items() if ref != ready[0]}
        finally:
            ray.shutdown()

    return run


def carry_out(job: Job, place: Workplace, progress: Progress | None = None, spread: Spread | None = None) -> Done:
    """Run a job and keep its records, or the errors of what failed, in the leaderboard's folder."""
    from bdbench import experiment

    board = Board(place.board)
    outcomes: list[Any] = []
    try:
        for outcome in experiment.run_each(
            dataset=job.dataset,
            model=job.model,
            attack=job.attack,
            defenses=job.defenses,
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
            progress=progress or Silent(),
            spread=spread,
        ):
            if not isinstance(outcome, Exception):
                board.add(outcome.to_dict())
            outcomes.append(outcome)
    except Exception as error:
        # In what all defenses share, so that it is the error of each that is left.
        outcomes += [error] * (len(job.defenses) - len(outcomes))
    failed = [(d, o) for d, o in zip(job.defenses, outcomes, strict=True) if isinstance(o, Exception)]
    return _failed(job, failed, board)


def _failed(job: Job, failed: Sequence[tuple[Defense, Exception]], board: Board) -> Done:
    errors = []
    for defense, error in failed:
        line = (str(error).splitlines() or [""])[0]
        text = line if isinstance(error, BdbenchError) else f"{type(error).__name__}: {line}"
        board.fail(job.config(defense), job.seed, text)
        errors.append((record.spec(defense.config()), text))
    return Done(job, len(job.defenses) - len(errors), tuple(errors))


def _connected(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise BdbenchError("engine 'ray' is not installed: expected pip install 'bdbench[ray]'") from None
    try:
        if address is not None and address != "auto":
            # Ray itself would try for more than a minute, and then end the process.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BdbenchError(f"no Ray cluster at {address!r}: {reason}: expected auto or host:port") from None
    return ray


def _side_by_side(threads: int | None, gpus: int, piece: Callable[[int], None], count: int) -> Iterator[None]:
    """A ``Spread``: tasks of the cluster that this task runs on.

    Where none ends for long, perhaps since others hold all GPUs, the rest is given up: who asked makes it himself.
    """
    import ray

    task = ray.remote(num_cpus=threads or 1, num_gpus=gpus, max_retries=_RETRIES)(_call)
    shared = ray.put(piece)
    refs = [task.remote(shared, index, threads) for index in range(count)]
    patient = True
    for ref in refs:
        if patient and not ray.wait([ref], timeout=_PATIENCE)[0]:
            patient = False
            for late in refs:
                ray.cancel(late)
        if patient:
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
        yield


def _call(piece: Callable[[int], None], index: int, threads: int | None) -> None:
    machine.use_threads(threads)
    piece(index)


def _room(ray: Any, cpus: int, gpus: int) -> float:
    """How many jobs fit on the cluster at once."""
    resources = ray.cluster_resources()
    return float(resources.get("GPU", 0) if gpus else resources.get("CPU", 0) / cpus)


def _has_gpus(ray: Any) -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _result(ray: Any, ref: Any, job: Job, place: Workplace) -> Done:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        board = Board.read(place.board)
        lost = [defense for left in board.pending([job]) for defense in left.defenses]
        return _failed(job, [(defense, error) for defense in lost], board)
