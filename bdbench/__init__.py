"""bdbench: a benchmark for backdoor attacks and defenses on image classifiers.

These are the names a plugin author imports, and nothing else; they are loaded when they are first used,
so that ``bdbench --help`` costs no numpy and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "bdbench.commands.options": ("export_command",),
    "bdbench.data": ("ImageData", "PoisonedData", "Role", "Split", "TrainingView"),
    "bdbench.errors": ("BdbenchError", "unknown"),
    "bdbench.experiment": ("load", "run", "run_all"),
    "bdbench.hookspecs": ("hookimpl",),
    "bdbench.interfaces": (
        "Architecture",
        "Attack",
        "Dataset",
        "Detector",
        "Measured",
        "Metric",
        "Mitigation",
        "ReportSection",
        "Source",
        "Tools",
        "TriggerAttack",
    ),
    "bdbench.params": ("param",),
    "bdbench.progress": ("bars",),
    "bdbench.recipe": ("Recipe",),
    "bdbench.record": ("Record",),
    "bdbench.runs": ("Reopened", "reopen"),
    "bdbench.scoring": ("detect", "detector"),
    "bdbench.seeds": ("Streams",),
    "bdbench.store": ("write_file", "written_whole"),
    "bdbench.training": ("Victim",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from bdbench.commands.options import export_command
    from bdbench.data import ImageData, PoisonedData, Role, Split, TrainingView
    from bdbench.errors import BdbenchError, unknown
    from bdbench.experiment import load, run, run_all
    from bdbench.hookspecs import hookimpl
    from bdbench.interfaces import (
        Architecture,
        Attack,
        Dataset,
        Detector,
        Measured,
        Metric,
        Mitigation,
        Source,
        Tools,
        TriggerAttack,
    )
    from bdbench.params import param
    from bdbench.progress import bars
    from bdbench.recipe import Recipe
    from bdbench.record import Record
    from bdbench.runs import Reopened, reopen
    from bdbench.scoring import detect, detector
    from bdbench.seeds import Streams
    from bdbench.store import write_file, written_whole
    from bdbench.training import Victim

__all__ = [
    "Architecture",
    "Attack",
    "BdbenchError",
    "Dataset",
    "Detector",
    "ImageData",
    "Measured",
    "Metric",
    "Mitigation",
    "PoisonedData",
    "Recipe",
    "Record",
    "Reopened",
    "ReportSection",
    "Role",
    "Source",
    "Split",
    "Streams",
    "Tools",
    "TrainingView",
    "TriggerAttack",
    "Victim",
    "bars",
    "detect",
    "detector",
    "export_command",
    "hookimpl",
    "load",
    "param",
    "reopen",
    "run",
    "run_all",
    "unknown",
    "write_file",
    "written_whole",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bdbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
