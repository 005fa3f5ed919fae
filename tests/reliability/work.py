"""What the processes of the harness do: a cell, a grid, a cell that may write little; and how many of each there are.

The processes are forked from a server that has loaded everything, so that one is at work at once and ends in a second.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.conftest import TINY, TINY_DATAMODEL

# How a full disk looks to its process: one line and this exit code, as of the program.
REFUSED = 2

CELL: dict[str, Any] = {**TINY, "defenses": [TINY_DATAMODEL, "spectral"], "threads": 1}
GRID = f"""
datasets = ["{TINY["dataset"]}"]
models = ["{TINY["model"]}"]
attacks = ["none", "{TINY["attack"]}"]
defenses = ["random", "spectral", "{TINY_DATAMODEL}"]
seeds = "0-1"
"""


def count(what: str, usual: int) -> int:
    """How many: the environment variable BDBENCH_RELIABILITY_<WHAT>, or as many as usual."""
    return int(os.environ.get(f"BDBENCH_RELIABILITY_{what}", usual))


def begun(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that does it, started."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.reliability.loaded"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def done(target: Callable[..., None], *arguments: Any, patience: float = 300) -> int:
    """The exit code of a process that does it, within as many seconds."""
    process = begun(target, *arguments)
    process.join(patience)
    assert process.exitcode is not None, f"{target.__name__} does not end"
    return process.exitcode


def cell(out: Path) -> None:
    """CELL, into a folder of runs."""
    import bdbench

    _quiet()
    bdbench.run_all(out=out, **CELL)


def grid(folder: Path) -> None:
    """GRID, with its board and its runs below a folder."""
    from bdbench.grids import engines
    from bdbench.grids import grid as grids
    from bdbench.grids.board import Board
    from bdbench.grids.jobs import Workplace
    from bdbench.progress import Silent

    _quiet()
    place = Workplace(folder / "board", folder / "runs", device="cpu", threads=1)
    jobs = Board.read(place.board).pending(grids.read(place.board / "grid.toml").jobs())
    made = list(engines.local(jobs, place, Silent()))
    (folder / f"made-{os.getpid()}").write_text(str(sum(each.records for each in made)))
    sys.exit(any(each.errors for each in made))


def cell_of_small_files(out: Path, largest: int, said: Path) -> None:
    """CELL, where no file may be larger than that, in bytes: it ends as the program does where a disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    refused(out, said)


def refused(out: Path, said: Path) -> None:
    """CELL; what it says if it is refused, a BdbenchError, goes to a file, and REFUSED is the exit code."""
    from bdbench import BdbenchError

    try:
        cell(out)
    except BdbenchError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(str(error))
        sys.exit(REFUSED)


def soak(out: Path, said: Path, cells: int) -> None:
    """So many cells in one process; after each, its resident memory in KiB and its open files, as JSON lines."""
    import bdbench

    _quiet()
    with said.open("w", buffering=1) as file:
        for index in range(cells):
            attack = ("none", "badnets:rate=0.05", "blend:rate=0.05")[index % 3]
            given = {**CELL, "attack": attack, "defenses": ["low-loss", "random", "fine-tuning:epochs=1"]}
            bdbench.run_all(out=out, seed=index, **given)
            file.write(json.dumps(_held()) + "\n")


def _held() -> Sequence[int]:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]), len(os.listdir("/proc/self/fd"))


def _quiet() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
