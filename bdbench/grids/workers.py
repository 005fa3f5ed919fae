"""Several processes on this machine that share the jobs of a grid, as several ``bdbench grid`` would."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from bdbench.errors import BdbenchError
from bdbench.grids.engines import Engine
from bdbench.grids.grid import Job
from bdbench.grids.jobs import Done, Workplace, carry_out
from bdbench.host import machine, stopping
from bdbench.progress import Progress
from bdbench.storage import claims

# Deaths for each process without any work done. Work that kills is given up before that, by its claims.
_DEATHS = claims.TRIES + 1
# Pieces of work for each process, so that none is idle for long at the end.
_PIECES = 2


@dataclass(frozen=True)
class _Hand:
    """A process, by the lowest number that was free, and what it is at."""

    seat: int
    worker: SpawnProcess
    job: Job


def on_processes(count: int) -> Engine:
    """An engine of ``count`` processes, each with ``threads`` CPU threads (1 unless set).

    Where there are several GPUs, and the device names none of them, they take them in turn. Another process takes the
    place of one that dies, and finds the stages that were finished. Raises BdbenchError where that does not help, and
    what the work itself does not catch.
    """

    def run(jobs: Sequence[Job], place: Workplace, progress: Progress) -> Iterator[Done]:
        place, left, deaths = replace(place, threads=place.threads or 1), deque(jobs), 0
        crew: dict[Connection, _Hand] = {}
        try:
            while left or crew:
                while left and len(crew) < count:
                    seat = min(set(range(count)) - {each.seat for each in crew.values()})
                    worker, new = _hired(place, seat)
                    crew[new] = _Hand(seat, worker, _given(new, left.popleft()))
                for connection in wait(list(crew)):
                    assert isinstance(connection, Connection)
                    own = crew.pop(connection)
                    try:
                        done = connection.recv()
                    except (EOFError, OSError):
                        connection.close()
                        left.appendleft(own.job)
                        deaths += 1
                        if deaths >= _DEATHS * count:
                            raise BdbenchError(
                                f"--workers {count}: {deaths} died in a row, for want of memory perhaps: expected fewer"
                            ) from None
                        continue
                    if left:
                        crew[connection] = replace(own, job=_given(connection, left.popleft()))
                    else:
                        connection.close()
                    if isinstance(done, Exception):
                        raise done
                    deaths = 0
                    yield done
        finally:
            # Their ends of the pipes say so, too, but not to who is at work.
            for each in crew.values():
                each.worker.terminate()

    return run


def dealt(jobs: Sequence[Job], count: int) -> list[Job]:
    """The jobs, each in so many parts that ``count`` processes have enough; first the first part of each.

    What the parts of one share is made by the first of them, for which the others wait.
    """
    parts = math.ceil(_PIECES * count / len(jobs)) if count > 1 else 1
    return [
        replace(job, defenses=job.defenses[part::parts]) for part in range(parts) for job in jobs if job.defenses[part:]
    ]


def _hired(place: Workplace, seat: int) -> tuple[SpawnProcess, Connection]:
    """A new process at a seat, and where it takes jobs and gives what came of them."""
    # Neither a fork, which would inherit threads and their locks, nor a queue, whose semaphores a sudden end leaves.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_work, args=(there, place, seat))
    worker.start()
    there.close()
    return worker, here


def _given(connection: Connection, job: Job) -> Job:
    """The job, sent."""
    # One that has died is noticed by whoever waits for it.
    with contextlib.suppress(OSError):
        connection.send(job)
    return job


def _work(connection: Connection, place: Workplace, seat: int) -> None:
    """What a process does: job after job, until nobody is there to give one."""
    # Ctrl-C is for its parent to hear, with which it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.abandon())
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    if place.device in ("auto", "cuda"):
        machine.use_gpu(seat)
    while True:
        try:
            # No bars: it has no terminal of its own.
            done: Done | Exception = carry_out(connection.recv(), place)
        except EOFError:
            return
        except Exception as error:
            done = error
        connection.send(done)


def _follow(parent: int) -> None:
    wait([parent])
    stopping.abandon()
