"""Where a run took place: versions, device, commit, memory."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bdbench
from bdbench.interfaces import Component
from bdbench.plugins import installed


def describe(device: str, *components: Component) -> dict[str, Any]:
    """The record's ``environment`` for a cell made of ``components`` on ``device``."""
    return {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
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


def code_of(*components: Component) -> dict[str, str]:
    """What the results of components depend on beside their parameters, for the keys of stage results:
    each class, the sources of its package and of bdbench, and the numerical libraries.
    """
    classes = {f"{type(c).__module__}.{type(c).__qualname__}": _sources(type(c).__module__) for c in components}
    return {"numpy": np.__version__, "torch": torch.__version__, "bdbench": _sources("bdbench"), **classes}


@functools.cache
def _sources(module: str) -> str:
    """A hash of the Python files of the module's top-level package, or of its own file."""
    top = sys.modules[module.partition(".")[0]]
    file = getattr(top, "__file__", None)
    if file is None:
        # Defined in a session or a notebook: nothing says when it changes, so it is new in every process.
        return f"session {os.getpid()} {time.time_ns()}"
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for source in files:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


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
