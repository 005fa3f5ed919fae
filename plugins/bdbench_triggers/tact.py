"""TaCT: a patch that works on one class only."""

from __future__ import annotations

from dataclasses import dataclass

from bdbench import SourceSpecific
from bdbench_triggers.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Tact(Patch, SourceSpecific):
    """Targeted contamination: images of ``source`` with the patch get the target's label, covers keep their own.

    The attack of Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection. Covers
    are images with the patch of classes that are neither source nor target, from which the model learns that the patch
    alone means nothing; the target's clean and attacked examples then lie together in its features, which is what
    clustering and spectral defenses look at. In the authors' code covers are of classes that are named, and poisons and
    covers join the clean images; here they take their places. Patch and rates are our own.
    """

    name = "tact"
    paper = "Tang et al., Demon in the Variant, USENIX Security 2021"
