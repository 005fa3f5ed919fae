"""Many cells in one process: as much memory and as many open files at the end as soon after the beginning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.work import count, done, soak

pytestmark = pytest.mark.slow

# Of the first ones, in which modules are loaded and caches fill.
_WARM = 0.2


def test_a_hundred_cells_leave_nothing_behind(tmp_path: Path, tally: dict[str, int]) -> None:
    """Three defenses each, so that there are three times as many records."""
    asked = count("SOAK", 34)
    assert done(soak, tmp_path / "runs", tmp_path / "held", asked, patience=300 + 30 * asked) == 0
    memory, files = np.array([json.loads(line) for line in (tmp_path / "held").read_text().splitlines()]).T
    assert len(memory) == asked
    first = int(_WARM * asked)
    slope = np.polyfit(np.arange(asked - first), memory[first:], 1)[0]
    tally |= {
        "records": 3 * asked, "MiB in the beginning": memory[first] // 1024, "MiB at the end": memory[-1] // 1024,
        "KiB a record, by regression": round(slope / 3), "open files": files[-1],
    }  # fmt: skip
    assert set(files[first:]) == {files[first]}
    assert (memory[-1] - memory[first]) / 1024 < 20 + 0.05 * asked
