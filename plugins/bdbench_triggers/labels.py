"""Triggers that are used with either kind of label."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Literal

from bdbench import TriggerAttack, param


@dataclass(frozen=True, kw_only=True)
class EitherLabel(TriggerAttack, ABC):
    """A trigger attack that is clean-label by default, and dirty-label if asked to."""

    labels: Literal["clean", "dirty"] = param("clean", help="poison the target class, or relabel images of the others")

    @property
    def clean_label(self) -> bool:  # type: ignore[override]
        """Whether poisons are of the target class, and keep their label."""
        return self.labels == "clean"
