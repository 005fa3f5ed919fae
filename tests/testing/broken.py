"""Broken components, and what the check of each says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bdbench.components.interfaces import Source
from bdbench.testing import Fault
from bdbench.testing.cases import cases_of

# (the check that finds it, the component, what the check says it found)
Broken = tuple[str, Any, str]


def expect_fault(kind: str, check: str, subject: Any, found: str, source: Source | None = None) -> None:
    (case,) = (c for c in cases_of(kind, subject, source) if c.check.name == check)
    with pytest.raises(Fault) as caught:
        case.run()
    lines = str(caught.value).splitlines()
    assert found in lines[2]
    assert lines[0].endswith(f": {check}")
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["expected", "found", "why"]
    assert all(line.partition(":")[2].strip() for line in lines[1:4])


def expect_complete(kind: str, subject: Any, broken: Sequence[Broken]) -> None:
    """Every check of the kind finds something in ``broken``."""
    assert {c.check.name for c in cases_of(kind, subject)} - {name for name, *_ in broken} == set()


COMPONENT_CHECKS = {"says-what-it-is", "comes-back-from-its-config", "names-its-files-as-paths"}
