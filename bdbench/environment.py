"""Where a run took place: versions, device, commit, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import bdbench
from bdbench import sources
from bdbench.interfaces import Component
from bdbench.plugins import installed


def describe(device: str, *components: Component) -> dict[str, Any]:
    """The record's ``environment`` for a cell made of ``components`` on ``device``."""
    return {
        "versions": {
            "python": platform.python_version(),
            **sources.library_versions(),
            **versions(*components),
        },
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def versions(*components: Component) -> dict[str, str]:
    """The version of bdbench and of every distribution that a component came from."""
    found = {"bdbench": bdbench.__version__}
    for part in components:
        for registration in installed().registered(part.kind):
            if registration.component is type(part):
                found[registration.plugin.distribution] = registration.plugin.version
    return found


def commit() -> str | None:
    """The commit of the checkout that bdbench runs from, if it does; with a '+' if files differ from it."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def peak_memory_mb() -> float:
    """The largest resident size of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
