"""Disks that are full: one line, nothing half written, and the same records once there is room."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.conftest import Whole, records, unfinished
from tests.reliability.work import REFUSED, cell, cell_of_small_files, count, done

pytestmark = pytest.mark.slow


def _largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pages(folder: Path) -> int:
    """What its files take on a disk of memory, in KiB."""
    return sum(4 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


def test_where_no_file_may_be_large(
    whole_cell: Whole, tmp_path: Path, chance: random.Random, tally: dict[str, int]
) -> None:
    """To a process that is a disk that has so much room for its next file; it takes no rights."""
    tally |= {"limits": 0, "refused": 0}
    largest = _largest(whole_cell.folder)
    for number in range(count("LIMITS", 6)):
        out, said = tmp_path / str(number) / "runs", tmp_path / f"said-{number}"
        limit = int(largest ** chance.uniform(0.4, 1))
        code = done(cell_of_small_files, out, limit, said)
        assert code == REFUSED, limit
        assert "File too large" in said.read_text() and len(said.read_text().splitlines()) == 1
        assert not unfinished(out)
        assert records(out).items() <= whole_cell.records.items()
        assert done(cell, out) == 0 and records(out) == whole_cell.records
        tally["limits"] += 1
        tally["refused"] += code == REFUSED


def _namespaces() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _namespaces(), reason="no disk of one's own without user namespaces")
def test_on_a_disk_that_is_full(
    whole_cell: Whole, tmp_path: Path, chance: random.Random, tally: dict[str, int]
) -> None:
    tally |= {"disks": 0, "refused": 0}
    needed = _pages(whole_cell.folder)
    for number in range(count("DISKS", 3)):
        folder, size = tmp_path / str(number), int(needed * chance.uniform(0.1, 0.9))
        folder.mkdir()
        command = ["unshare", "-rm", sys.executable, "-m", "tests.reliability.full_disk", str(folder), str(size)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        found = json.loads(process.stdout)
        assert (found["code"], found["left"], found["again"]) == (REFUSED, [], 0), (size, found)
        assert "No space left on device" in found["said"] and len(found["said"].splitlines()) == 1
        assert found["records"] == json.loads(json.dumps(whole_cell.records))
        tally["disks"] += 1
        tally["refused"] += found["code"] == REFUSED
