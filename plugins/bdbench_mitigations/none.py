"""No defense: what a model does that nobody repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench import Mitigation, Tools

if TYPE_CHECKING:
    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class NoDefense(Mitigation):
    """The floor of repairs: the victim as it is. With it alone, a run or a board measures attacks."""

    name = "none"
    assumption = "There is no backdoor."

    def repair(self, tools: Tools) -> Victim:
        """The victim."""
        return tools.victim
