"""Bits that fall over in stage files, and files in the places of others: told of, computed again, the same record."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bdbench
from bdbench.storage.files import notice
from bdbench.storage.store import Store
from tests.reliability.conftest import Whole, records
from tests.reliability.work import CELL, count

pytestmark = pytest.mark.slow

Again = Callable[[], list[str]]


@pytest.fixture
def runs(whole_cell: Whole, tmp_path: Path) -> Path:
    """A copy of the finished runs, and their stages, of its own."""
    return Path(shutil.copytree(whole_cell.folder, tmp_path / "runs"))


@pytest.fixture
def read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the stages that are read when all is there."""
    seen: list[Path] = []
    original = Store._read

    def spied(folder: Path, key: str) -> Any:
        seen.append(folder)
        return original(folder, key)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_read", staticmethod(spied))
        bdbench.run_all(out=runs, **CELL)
    return sorted(set(seen))


@pytest.fixture
def again(runs: Path, whole_cell: Whole, caplog: pytest.LogCaptureFixture) -> Again:
    """Run the cell again, see that its records are the same, and return what was said of stages."""

    def run() -> list[str]:
        caplog.clear()
        notice.cache_clear()
        bdbench.run_all(out=runs, **CELL)
        assert records(runs) == whole_cell.records
        return [record.getMessage() for record in caplog.records]

    return run


def test_every_bit_that_falls_over_is_noticed(
    read: list[Path], again: Again, chance: random.Random, tally: dict[str, int]
) -> None:
    tally |= {"bits": 0, "noticed": 0}
    assert not again()
    for _ in range(count("BITS", 40)):
        folder = chance.choice(read)
        file = folder / chance.choice(["arrays.npz", "meta.json"])
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        said = again()
        assert said and str(folder) in said[0] and "is damaged and is computed again" in said[0], file
        tally["bits"] += 1
        tally["noticed"] += len(said) > 0


def test_every_file_in_the_place_of_another_is_noticed(
    read: list[Path], again: Again, chance: random.Random, tally: dict[str, int]
) -> None:
    tally |= {"exchanged": 0}
    places = list(itertools.permutations(read, 2))
    for here, there in chance.sample(places, min(len(places), count("EXCHANGED", 10))):
        for names in (["arrays.npz"], ["meta.json"], ["arrays.npz", "meta.json"]):
            for name in names:
                shutil.copy(there / name, here / name)
            said = again()
            assert said and str(here) in said[0] and "is damaged and is computed again" in said[0], (here, there, names)
            tally["exchanged"] += 1
