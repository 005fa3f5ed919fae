"""Detectors of triggered inputs, at test time or in a training set, and of backdoored models: one a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bdbench import Defense, hookimpl

if TYPE_CHECKING:
    from bdbench import ModelDetector, Reopened, ReportSection, ReversedTrigger, Tools

BDBENCH_HOOKS = 2


@hookimpl
def bdbench_register_defenses() -> list[type[Defense]]:
    """Those of inputs and those of models."""
    from bdbench_inspection.badexpert import BaDExpert
    from bdbench_inspection.bti_dbf import BtiDbf
    from bdbench_inspection.feature_re import FeatureRE
    from bdbench_inspection.ibd_psc import IbdPsc
    from bdbench_inspection.mm_bd import MmBd
    from bdbench_inspection.neural_cleanse import NeuralCleanse
    from bdbench_inspection.scale_up import ScaleUp
    from bdbench_inspection.sentinet import SentiNet
    from bdbench_inspection.strip import Strip
    from bdbench_inspection.strip_filter import StripFilter
    from bdbench_inspection.teco import TeCo

    return [BaDExpert, BtiDbf, FeatureRE, IbdPsc, MmBd, NeuralCleanse, ScaleUp, SentiNet, Strip, StripFilter, TeCo]


@hookimpl
def bdbench_report_sections(run: Reopened) -> Iterable[ReportSection]:
    """The triggers that a model detector reversed."""
    from bdbench_inspection.pictures import sections

    return sections(run)


@hookimpl
def bdbench_reversed_triggers(defense: ModelDetector, tools: Tools) -> Iterable[ReversedTrigger]:
    """The same for ``bdbench inspect``, one picture at a time."""
    from bdbench_inspection.pictures import triggers

    return triggers(defense, tools)
