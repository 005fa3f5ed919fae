"""What a cell tells while it runs, and asks when it is done: plugins listen, but a cell knows none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bdbench.components.interfaces import Component, Measured


class Events(Protocol):
    """Who listens to a cell."""

    def started(self, run: str, config: dict[str, Any]) -> None:
        """A cell begins."""
        ...

    def stage_finished(self, run: str, stage: str, seconds: float, reused: bool) -> None:
        """A stage is done, or was found."""
        ...

    def finished(self, run: str, record: dict[str, Any]) -> None:
        """A cell is done, and its record is on disk."""
        ...

    def extra(self, measured: Measured) -> dict[str, float | None]:
        """The numbers of metric plugins for a finished cell."""
        ...

    def versions(self, *components: Component) -> Mapping[str, str]:
        """The version of every distribution that a component came from."""
        ...


class Deaf:
    """Nobody listens."""

    def started(self, run: str, config: dict[str, Any]) -> None:
        """Nothing."""

    def stage_finished(self, run: str, stage: str, seconds: float, reused: bool) -> None:
        """Nothing."""

    def finished(self, run: str, record: dict[str, Any]) -> None:
        """Nothing."""

    def extra(self, measured: Measured) -> dict[str, float | None]:
        """None."""
        return {}

    def versions(self, *components: Component) -> Mapping[str, str]:
        """None."""
        return {}
