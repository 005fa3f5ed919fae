"""Attacks whose attacker trains the victim himself, and hands it over."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bdbench import Attack, State, Workshop, param

if TYPE_CHECKING:
    from bdbench import Victim

_VICTIM = "victim"


@dataclass(frozen=True, kw_only=True)
class Trained(Attack, ABC):
    """A mixin, before the attack's other bases: ``craft`` returns its trigger and, by ``handed_over``, the victim.

    ``poison`` gives the training set that the final trigger makes. With ``snapshot`` the attacker publishes that set
    and no model: ``trains`` is then False, the harness trains the victim, and defenses of the training apply.
    """

    trains: ClassVar[bool] = True
    snapshot: bool = param(
        False, help="publish the training set that the final trigger poisons, and no model: an attack on data"
    )

    def __post_init__(self) -> None:
        """Check every parameter; raises BdbenchError."""
        super().__post_init__()
        # Of the class, as lists show it, it is True; an instance is frozen, but this is no parameter.
        object.__setattr__(self, "trains", not self.snapshot)

    def victim(self, state: State, tools: Workshop) -> Victim | None:
        """What ``craft`` trained; None with ``snapshot``."""
        return None if self.snapshot else tools.restore(part(state, _VICTIM))


def handed_over(victim: Victim) -> dict[str, np.ndarray]:
    """A victim as a part of the crafted state, where ``Trained.victim`` finds it."""
    return named(victim.arrays(), _VICTIM)


def named(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Arrays as the part ``name`` of a state."""
    return {f"{name}/{key}": array for key, array in arrays.items()}


def part(state: State, name: str) -> dict[str, np.ndarray]:
    """The part of a state that ``named`` put there."""
    return {key.removeprefix(f"{name}/"): array for key, array in state.items() if key.startswith(f"{name}/")}
