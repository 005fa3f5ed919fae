"""bdbench: a benchmark for backdoor attacks and defenses on image classifiers.

These are the names a plugin author imports, and nothing else; they are loaded when they are first used,
so that ``bdbench --help`` costs no numpy and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "bdbench.components.attacks": ("Attack", "Covers", "CraftedTrigger", "SourceSpecific", "TriggerAttack"),
    "bdbench.commands.options": ("export_command",),
    "bdbench.images.data": ("ANY_OTHER", "Challenge", "ImageData", "PoisonedData", "Role", "Split", "TrainingView"),
    "bdbench.images.decoding": ("IMAGE_SUFFIXES", "decoded"),
    "bdbench.components.defenses": (
        "Defense",
        "Detector",
        "InputDetector",
        "Mitigation",
        "Model",
        "ModelDetector",
        "Needs",
        "RobustTraining",
        "Verdict",
    ),
    "bdbench.errors": ("BdbenchError", "unknown"),
    "bdbench.experiment": ("load", "reopen", "run", "run_all"),
    "bdbench.storage.files": ("check_regular", "notice", "read_arrays", "reading"),
    "bdbench.foreign": ("csv_text",),
    "bdbench.registry.hookspecs": ("hookimpl",),
    "bdbench.inspecting": ("Inspection", "inspect"),
    "bdbench.components.interfaces": (
        "Architecture",
        "Dataset",
        "Measured",
        "Metric",
        "ReportSection",
        "ReversedTrigger",
        "Source",
    ),
    "bdbench.images.listing": ("Listing", "listing_of"),
    "bdbench.host.memory": ("check_memory",),
    "bdbench.components.params": ("param",),
    "bdbench.progress": ("bars",),
    "bdbench.networks.recipe": ("Batch", "Loss", "Recipe"),
    "bdbench.storage.record": ("Record",),
    "bdbench.cells.runs": ("Reopened",),
    "bdbench.scanning.front": ("Scan", "scan"),
    "bdbench.scoring": ("detect", "detector", "most_suspicious"),
    "bdbench.seeds": ("Streams",),
    "bdbench.cells.stealth": ("visibility",),
    "bdbench.storage.store": ("write_file", "written_whole"),
    "bdbench.networks.training": ("Victim",),
    "bdbench.components.workshop": ("Oracle", "State", "Tools", "Workshop"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from bdbench.cells.runs import Reopened
    from bdbench.cells.stealth import visibility
    from bdbench.commands.options import export_command
    from bdbench.components.attacks import Attack, Covers, CraftedTrigger, SourceSpecific, TriggerAttack
    from bdbench.components.defenses import (
        Defense,
        Detector,
        InputDetector,
        Mitigation,
        Model,
        ModelDetector,
        Needs,
        RobustTraining,
        Verdict,
    )
    from bdbench.components.interfaces import (
        Architecture,
        Dataset,
        Measured,
        Metric,
        ReportSection,
        ReversedTrigger,
        Source,
    )
    from bdbench.components.params import param
    from bdbench.components.workshop import Oracle, State, Tools, Workshop
    from bdbench.errors import BdbenchError, unknown
    from bdbench.experiment import load, reopen, run, run_all
    from bdbench.foreign import csv_text
    from bdbench.host.memory import check_memory
    from bdbench.images.data import ANY_OTHER, Challenge, ImageData, PoisonedData, Role, Split, TrainingView
    from bdbench.images.decoding import IMAGE_SUFFIXES, decoded
    from bdbench.images.listing import Listing, listing_of
    from bdbench.inspecting import Inspection, inspect
    from bdbench.networks.recipe import Batch, Loss, Recipe
    from bdbench.networks.training import Victim
    from bdbench.progress import bars
    from bdbench.registry.hookspecs import hookimpl
    from bdbench.scanning.front import Scan, scan
    from bdbench.scoring import detect, detector, most_suspicious
    from bdbench.seeds import Streams
    from bdbench.storage.files import check_regular, notice, read_arrays, reading
    from bdbench.storage.record import Record
    from bdbench.storage.store import write_file, written_whole

__all__ = [
    "ANY_OTHER",
    "IMAGE_SUFFIXES",
    "Architecture",
    "Attack",
    "Batch",
    "BdbenchError",
    "Challenge",
    "Covers",
    "CraftedTrigger",
    "Dataset",
    "Defense",
    "Detector",
    "ImageData",
    "InputDetector",
    "Inspection",
    "Listing",
    "Loss",
    "Measured",
    "Metric",
    "Mitigation",
    "Model",
    "ModelDetector",
    "Needs",
    "Oracle",
    "PoisonedData",
    "Recipe",
    "Record",
    "Reopened",
    "ReportSection",
    "ReversedTrigger",
    "RobustTraining",
    "Role",
    "Scan",
    "Source",
    "SourceSpecific",
    "Split",
    "State",
    "Streams",
    "Tools",
    "TrainingView",
    "TriggerAttack",
    "Verdict",
    "Victim",
    "Workshop",
    "bars",
    "check_memory",
    "check_regular",
    "csv_text",
    "decoded",
    "detect",
    "detector",
    "export_command",
    "hookimpl",
    "inspect",
    "listing_of",
    "load",
    "most_suspicious",
    "notice",
    "param",
    "read_arrays",
    "reading",
    "reopen",
    "run",
    "run_all",
    "scan",
    "unknown",
    "visibility",
    "write_file",
    "written_whole",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bdbench' has no attribute {name!r}")
    # How threads wait has to be said before torch is loaded, which some of these do.
    importlib.import_module("bdbench.host.machine").wait_kindly()
    return getattr(importlib.import_module(_HOME[name]), name)
