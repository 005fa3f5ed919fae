"""How much memory there is, told before work starts that would need more: the system would end it without a word."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bdbench.errors import BdbenchError

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
# What a control group without a limit has instead: about the largest number of bytes there can be.
_UNLIMITED = 2**60


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still use: what the system and its control groups leave; None if that is not known.

    root: where /proc and /sys are.
    """
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
