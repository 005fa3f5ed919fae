"""What a conformance check is: a function whose docstring says what it expects, and why that matters."""

from __future__ import annotations

import functools
import inspect
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

import numpy as np

from bdbench.components import guard
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
            with guard.call():
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


def first_fitting(what: Iterable[T], attempt: Callable[[T], Any]) -> Any:
    """``attempt`` of the first of ``what`` that a component does not refuse with a BdbenchError. It must take one."""
    refusal = ""
    for thing in what:
        try:
            return attempt(thing)
        except BdbenchError as error:
            refusal = str(error)
    expect(False, f"it refuses every sample; the last one because: {refusal}")


def expect_alike(one: Mapping[str, Any], other: Mapping[str, Any], when: str) -> None:
    """Fail the check unless two results, arrays by name, are the same but for the last digits."""
    names = [name for name in {**one, **other} if not _alike(one.get(name), other.get(name))]
    expect(not names, f"other {', '.join(names)} {when}")


def _alike(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    # Sums over threads may end in another last digit.
    scale = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.allclose(one, other, rtol=1e-6, atol=1e-6 * scale, equal_nan=True)


def expect_repeatable(
    attempt: Callable[[], Mapping[str, Any]], remedy: str, before: Mapping[str, Any] | None = None
) -> None:
    """Fail the check unless ``attempt`` gives the same arrays whatever the global seeds and the time of day are.

    before: what it gave, if it was made before.
    """
    results = [] if before is None else [before]
    for seed in (1, 2)[len(results) :]:
        with elsewhere(seed):
            results.append(attempt())
    expect_alike(results[0], results[1], f"under other global seeds, at another time: {remedy}")


def kept(function: Callable[..., T]) -> Callable[..., T]:
    """Remember what a function of a component, and of more that can be hashed, gives for the checks after.

    Only where parameters tell all of the component: not of one that cannot be hashed, or reads files. That what it
    gives is the same each time is for those checks to see that ask for it anew.
    """
    remembered = functools.lru_cache(maxsize=16)(function)

    @functools.wraps(function)
    def asked(component: Any, *more: Any) -> T:
        try:
            hash(component)
        except TypeError:
            return function(component, *more)
        return function(component, *more) if component.files() else remembered(component, *more)

    return asked


@contextmanager
def unchanged(arrays: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Fail the check if one of the arrays, by what messages call it, is not afterwards what it was."""
    before = {name: array.copy() for name, array in arrays.items()}
    yield
    for name, array in arrays.items():
        expect(np.array_equal(array, before[name]), f"{name} changed")


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


@contextmanager
def elsewhere(seed: int) -> Iterator[None]:
    """As in another process: other global random states, and as many hours later."""
    now, now_ns = time.time, time.time_ns
    later = mock.patch.multiple(time, time=lambda: now() + 3600 * seed, time_ns=lambda: now_ns() + 3600 * 10**9 * seed)
    with global_seed(seed), later:
        yield
