"""What this machine computes fastest with: how threads wait, how many there are, and in which precision.

Nothing here changes what is computed, but all of it changes last digits: it is in a record's environment and in the
keys of stage results, not in a cell's identity. Imports torch only inside functions, since how threads wait has to be
said before torch is loaded.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Literal

from bdbench.errors import BdbenchError
from bdbench.host import stopping

Precision = Literal["float32", "bfloat16"]

# How often a thread looks again before it sleeps at a barrier. Where another process holds its core, a thread that
# spins keeps the one it waits for from running: torch's default made a run ten times slower on some machines.
_SPINS = 3000
_TOLD = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
# Seconds of looking at what other processes take.
_LOOK = 0.1
_PRODUCT = 256
# Where Linux tells of control groups.
_GROUPS = Path("/sys/fs/cgroup")
# More of them than that only wait for each other.
_THREADS_A_CORE = 8


def keep_compiled(folder: Path) -> None:
    """Let numba keep what it compiles below ``folder`` where it has no other place: packages and home are read-only."""
    cache = Path.home() / ".cache"
    nearest = next((path for path in (cache, *cache.parents) if path.exists()), cache)
    if not os.access(nearest, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str((folder / ".numba").absolute()))


def waiting() -> dict[str, str]:
    """How threads wait for each other, as far as it was said: the variables, and their values."""
    return {name: os.environ[name] for name in _TOLD if name in os.environ}


def wait_kindly() -> None:
    """Let threads that wait give their core away soon, unless the user has said how they wait, or torch is loaded."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _TOLD):
        os.environ["GOMP_SPINCOUNT"] = str(_SPINS)


def use_threads(asked: int | None = None) -> None:
    """Set torch's number of threads: to ``asked``, else to what was free when this was first asked.

    Free are the cores that this process may run on, less those that others keep busy. The user's OMP_NUM_THREADS holds.
    Raises BdbenchError for a number that ``checked_threads`` refuses.
    """
    import torch

    asked = checked_threads(asked)
    if asked is None and "OMP_NUM_THREADS" not in os.environ:
        asked = _free_cores()
        # At another time others may be free, and results hang on how many there were.
        stopping.found_with("--threads", asked)
    if asked is not None:
        torch.set_num_threads(asked)
        _limit_products(asked)


def use_gpu(seat: int) -> None:
    """Let this process see one of the GPUs that it sees, the ``seat``-th, over and over; nothing where it sees but one.

    Only before CUDA is used: it reads at its start which ones it may see.
    """
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        known = seen if len(seen) >= count else list(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = known[seat % count].strip()


def _limit_products(threads: int) -> None:
    """Of numpy's and scipy's linear algebra, too.

    With more of them than there are free cores a singular value decomposition took a hundred times as long.
    """
    import scipy.linalg  # noqa: F401  # has a library of its own, which only now can be told
    from threadpoolctl import ThreadpoolController

    ThreadpoolController().limit(limits=threads, user_api="blas")


def checked_threads(asked: Any) -> int | None:
    """A number of threads for this machine. Raises BdbenchError for any other: with too many OpenMP crashes."""
    most = _THREADS_A_CORE * (os.cpu_count() or 1)
    if asked is None:
        return None
    whole = operator.index(asked) if hasattr(asked, "__index__") and not isinstance(asked, bool) else 0
    if not 1 <= whole <= most:
        raise BdbenchError(f"threads={asked!r} is not allowed: expected an integer in 1..{most} on this machine")
    return whole


@functools.cache
def _free_cores() -> int:
    # Once: the number is part of what results hang on, and the cells of one grid should share it.
    return max(1, allowed_cores() - round(busy_cores()))


def allowed_cores() -> int:
    """The cores of this process: by affinity and by the control group's quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, _quota(_GROUPS))))


def _quota(groups: Path) -> float:
    """How many cores' time the control group may use, by version 2 or 1; infinitely many where it says nothing."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((groups / name).read_text() for name in names).split())
        except (OSError, ValueError):  # none of this version, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def busy_cores() -> float:
    """How many cores others keep busy, of those of this process, while it waits a tenth of a second; 0 if not known."""
    before = _ticks()
    if before is None:
        return 0.0
    time.sleep(_LOOK)
    after = _ticks()
    shares = []
    for core, (busy, total) in (after or {}).items():
        earlier = before.get(core, (busy, total))
        if total > earlier[1]:
            shares.append((busy - earlier[0]) / (total - earlier[1]))
    return sum(shares)


def _ticks() -> dict[int, tuple[int, int]] | None:
    """Of each core of this process the ticks it was busy, and all of them."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        own = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    found = {}
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in own:
            ticks = list(map(int, numbers[:8]))
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def precision(asked: str, device: str) -> Precision:
    """``asked``, or for "auto" the one in which products are faster on ``device``."""
    if asked == "float32":
        return "float32"
    if asked == "bfloat16":
        return "bfloat16"
    if device.startswith("cuda"):
        import torch

        # Asked without emulation: older cards have none of it in hardware.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    flags = _flags()
    if flags is not None and "amx_bf16" in flags:
        return "bfloat16"
    if flags is not None and not flags & {"avx512_bf16", "bf16"}:
        return "float32"
    # Vectors of bfloat16 are twice as fast as float32's on an EPYC and half as fast on a Xeon that has the same flag.
    return "bfloat16" if _measured() else "float32"


def processor() -> str:
    """The kind of processor, as it names itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _flags() -> set[str] | None:
    """What the processor says it can; None where it cannot be asked."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return set(found[0]) if found else None


@functools.cache
def _measured() -> bool:
    """Whether a product is faster in bfloat16, each timed at its best of eight; some milliseconds where it is not."""
    import torch

    factors = {dtype: torch.ones(_PRODUCT, _PRODUCT, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)}
    times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in factors}
    # In turn, so that what else the machine does falls on both; the first of each sets its library up.
    for _ in range(9):
        for dtype, a in factors.items():
            start = time.perf_counter()
            a @ a
            times[dtype].append(time.perf_counter() - start)
    return min(times[torch.bfloat16][1:]) < min(times[torch.float32][1:])
