"""Where work runs: in this process, or on a Ray cluster. Both do the same jobs to the same records."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bdbench.errors import BdbenchError
from bdbench.grids.board import Board
from bdbench.grids.grid import Job
from bdbench.grids.jobs import Done, Workplace, carry_out, failed
from bdbench.host import machine
from bdbench.progress import Progress

# A task whose worker died goes to another; one that dies this often is at fault itself.
_RETRIES = 3
# Seconds for the next piece of an ensemble to end.
_PATIENCE = 900.0

Engine = Callable[[Sequence[Job], Workplace, Progress], Iterator[Done]]


def local(jobs: Sequence[Job], place: Workplace, progress: Progress) -> Iterator[Done]:
    """One job after the other, in this process; first those that no other process is at, then what others left."""
    begun: list[Done] = []
    for job in jobs:
        with progress.section():
            done = carry_out(job, place, progress, wait=False)
        if done.left:
            begun.append(done)
        else:
            yield done
    for done in begun:
        with progress.section():
            rest = carry_out(replace(done.job, defenses=done.left), place, progress)
        yield done.with_rest(rest)


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
        board = Board(place.board)
        lost = [d for d in job.defenses if not board.settled(job, d, place.since)]
        errors = tuple(failed(job, defense, error, board) for defense in lost)
        return Done(job, len(job.defenses) - len(errors), errors)
