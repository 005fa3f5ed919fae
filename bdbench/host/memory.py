"""How much memory there is, told before work starts that would need more: the system would end it without a word.

And what a process does with memory that it has freed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bdbench.errors import BdbenchError

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
# What a control group without a limit has instead: about the largest number of bytes there can be.
_UNLIMITED = 2**60
# glibc's names of how large an array may be to be kept when it is freed, and of how much is kept of all, as mallopt(3)
# and its variables have them.
_KEPT = {"MALLOC_MMAP_THRESHOLD_": (-3, 128 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}


def keep_freed() -> None:
    """Let this process and those that it starts keep what they free, arrays up to 128 MiB; where glibc allocates.

    Else it goes back to the system, and the next step of a training, which asks for as much again, pays a tenth of its
    time for new pages. What the user has said of glibc's allocator holds.
    """
    set_option = _of_the_allocator("mallopt")
    if set_option is None or {*_KEPT, "GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys():
        return
    for name, (option, size) in _KEPT.items():
        os.environ[name] = str(size)  # for those that it starts
        set_option(option, size)


def give_back() -> None:
    """Return to the system what this process has freed and kept, so that what it holds is what it uses."""
    trim = _of_the_allocator("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_allocator(name: str) -> Any:
    """A function of glibc's; None where there is another library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still use: what the system and its control groups leave; None if that is not known.

    root: where /proc and /sys are.
    """
    give_back()
    limits = [*_of_system(root), *_of_groups(root), *_of_process(root)]
    return max(0, min(limits)) if limits else None


def check_memory(needed: int, what: str, fits: str = "fewer examples") -> None:
    """Raise BdbenchError if ``what`` needs more bytes than are available; fits: what to do instead."""
    there = available()
    if there is not None and needed > there:
        raise BdbenchError(f"{what} needs {shown(needed)} of memory, and {shown(there)} are free: expected {fits}")


def most(needed: Callable[[int], int], examples: int) -> int:
    """The most of so many examples for which what is ``needed`` of them is available; 0 if none do."""
    there = available()
    if there is None or needed(examples) <= there:
        return examples
    low, high = 0, examples
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= there else (low, middle)
    return low


def shown(size: float) -> str:
    """Bytes for a person: ``13.4 GiB``."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} bytes" if not power else f"{size:.1f} {_UNITS[power]}"


def _of_system(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
            return
    with contextlib.suppress(ValueError, OSError, AttributeError):
        if not (root / "proc").exists():
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_groups(root: Path) -> Iterator[int]:
    """What the limits of this process's control groups leave, and those of the groups around them."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            names, base = ("memory.max", "memory.current", "inactive_file"), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "sys/fs/cgroup/memory"
        else:
            continue
        # In a container the path may be that of the host, while what is mounted is the group itself.
        inner = Path(path.lstrip("/"))
        for folder in dict.fromkeys(base / part for part in (inner, *inner.parents)):
            yield from _left_by(folder, *names)


def _left_by(folder: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        most = int((folder / limit).read_text())
        if most >= _UNLIMITED:
            return
        # Pages of files that nobody looked at lately are given up before anything else.
        counted = (line.split() for line in _lines(folder / "memory.stat"))
        cached = sum(int(words[1]) for words in counted if words[0] == reclaimable)
        yield most - int((folder / used).read_text()) + cached


def _of_process(root: Path) -> Iterator[int]:
    """What ``ulimit -v`` leaves."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    for line in _lines(root / "proc/self/status"):
        if line.startswith("VmSize:"):
            yield limit - int(line.split()[1]) * 1024


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
