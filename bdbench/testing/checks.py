"""What a conformance check is: a function whose docstring says what it expects, and why that matters."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from bdbench.errors import BdbenchError

T = TypeVar("T")


class Fault(AssertionError):
    """A component breaks a contract: what was expected, what was found, and why it matters."""


class NotChecked(Exception):
    """A check that cannot be made here, such as one of images that are not on this machine."""


class _Found(Exception):
    """What a check found in place of what it expected."""


def expect(condition: object, found: str) -> None:
    """Fail the check that calls this unless ``condition`` holds; ``found`` says what was seen instead."""
    if not condition:
        raise _Found(found)


@dataclass(frozen=True)
class Check:
    """One check of one kind. The first paragraph of the function's docstring is what it expects, the rest why."""

    kind: str
    function: Callable[[Any], None]

    @property
    def name(self) -> str:
        """For lists and test ids."""
        return self.function.__name__.replace("_", "-")

    @property
    def expected(self) -> str:
        """What the check expects, in one line."""
        return self._paragraphs()[0].removesuffix(".")

    def run(self, title: str, subject: Any) -> None:
        """Check ``subject``, which messages call ``title``. Raises Fault, or NotChecked."""
        try:
            self.function(subject)
        except NotChecked:
            raise
        except _Found as found:
            raise self._fault(title, str(found)) from None
        except Exception as error:
            raise self._fault(title, f"{type(error).__name__}: {error}") from error

    def _fault(self, title: str, found: str) -> Fault:
        found, why = " ".join(found.split()), " ".join(self._paragraphs()[1:])
        return Fault(f"{title}: {self.name}\n  expected: {self.expected}\n  found:    {found}\n  why:      {why}")

    def _paragraphs(self) -> list[str]:
        return [p.replace("\n", " ") for p in (inspect.getdoc(self.function) or "").split("\n\n")]


CHECKS: dict[str, list[Check]] = {}


def check(kind: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function one of the checks of ``kind``."""

    def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.setdefault(kind, []).append(Check(kind, function))
        return function

    return add


def fitting(what: Iterable[T], attempt: Callable[[T], Any]) -> list[Any]:
    """``attempt`` of each of ``what`` that a component does not refuse with a BdbenchError. It must take one."""
    taken, refusal = [], ""
    for thing in what:
        try:
            taken.append(attempt(thing))
        except BdbenchError as error:
            refusal = str(error)
    expect(taken, f"it refuses every sample; the last one because: {refusal}")
    return taken


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global random states of Python, numpy and torch; put them back afterwards."""
    import torch

    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
