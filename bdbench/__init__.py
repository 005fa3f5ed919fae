"""bdbench: a benchmark for backdoor attacks and defenses on image classifiers.

These are the names a plugin author imports, and nothing else; they are loaded when they are first used,
so that ``bdbench --help`` costs no numpy and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "bdbench.attacks": ("Attack", "Covers", "CraftedTrigger", "SourceSpecific", "TriggerAttack"),
    "bdbench.commands.options": ("export_command",),
    "bdbench.data": ("ANY_OTHER", "Challenge", "ImageData", "PoisonedData", "Role", "Split", "TrainingView"),
    "bdbench.decoding": ("IMAGE_SUFFIXES", "decoded"),
    "bdbench.defenses": (
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
    "bdbench.files": ("check_regular", "notice", "read_arrays", "reading"),
    "bdbench.foreign": ("csv_text",),
    "bdbench.hookspecs": ("hookimpl",),
    "bdbench.inspecting": ("Inspection", "inspect"),
    "bdbench.interfaces": (
        "Architecture",
        "Dataset",
        "Measured",
        "Metric",
        "ReportSection",
        "ReversedTrigger",
        "Source",
    ),
    "bdbench.listing": ("Listing", "listing_of"),
    "bdbench.memory": ("check_memory",),
    "bdbench.params": ("param",),
    "bdbench.progress": ("bars",),
    "bdbench.recipe": ("Batch", "Loss", "Recipe"),
    "bdbench.record": ("Record",),
    "bdbench.runs": ("Reopened",),
    "bdbench.scanning.front": ("Scan", "scan"),
    "bdbench.scoring": ("detect", "detector", "most_suspicious"),
    "bdbench.seeds": ("Streams",),
    "bdbench.stealth": ("visibility",),
    "bdbench.store": ("write_file", "written_whole"),
    "bdbench.training": ("Victim",),
    "bdbench.workshop": ("Oracle", "State", "Tools", "Workshop"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from bdbench.attacks import Attack, Covers, CraftedTrigger, SourceSpecific, TriggerAttack
    from bdbench.commands.options import export_command
    from bdbench.data import ANY_OTHER, Challenge, ImageData, PoisonedData, Role, Split, TrainingView
    from bdbench.decoding import IMAGE_SUFFIXES, decoded
    from bdbench.defenses import (
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
    from bdbench.errors import BdbenchError, unknown
    from bdbench.experiment import load, reopen, run, run_all
    from bdbench.files import check_regular, notice, read_arrays, reading
    from bdbench.foreign import csv_text
    from bdbench.hookspecs import hookimpl
    from bdbench.inspecting import Inspection, inspect
    from bdbench.interfaces import Architecture, Dataset, Measured, Metric, ReportSection, ReversedTrigger, Source
    from bdbench.listing import Listing, listing_of
    from bdbench.memory import check_memory
    from bdbench.params import param
    from bdbench.progress import bars
    from bdbench.recipe import Batch, Loss, Recipe
    from bdbench.record import Record
    from bdbench.runs import Reopened
    from bdbench.scanning.front import Scan, scan
    from bdbench.scoring import detect, detector, most_suspicious
    from bdbench.seeds import Streams
    from bdbench.stealth import visibility
    from bdbench.store import write_file, written_whole
    from bdbench.training import Victim
    from bdbench.workshop import Oracle, State, Tools, Workshop

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
    importlib.import_module("bdbench.machine").wait_kindly()
    return getattr(importlib.import_module(_HOME[name]), name)
