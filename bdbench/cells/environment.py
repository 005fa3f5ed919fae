"""Where a run takes place: versions, device, processor, commit, memory."""

from __future__ import annotations

import contextlib
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bdbench.components import sources
from bdbench.host import machine, memory


def describe(device: str, precision: str, distributions: Mapping[str, str]) -> dict[str, Any]:
    """The record's ``environment``; distributions: the versions of those that the components came from."""
    return {
        "versions": {"python": platform.python_version(), **sources.library_versions(), **distributions},
        "device": device_name(device),
        "processor": machine.processor(),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "waiting": machine.waiting(),
        "commit": commit(),
    }


def device_name(device: str) -> str:
    """``cpu``, ``mps``, or which card it is: results of two cards are not the same to the last digit."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def commit() -> str | None:
    """The commit of the checkout that bdbench runs from, if it does; with a '+' if its code differs from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        # New files count as well as changed ones; records and pages that a grid writes do not.
        status = [*git, "status", "--porcelain", "--", "bdbench", "plugins", "pyproject.toml"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def reset_peak_memory() -> None:
    """Let ``peak_memory_mb`` count from now on, where the system can (Linux); what was freed before is given back."""
    memory.give_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """The largest resident size of this process since ``reset_peak_memory``, in MiB; where that cannot be, so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
