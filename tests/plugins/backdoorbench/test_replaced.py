"""A record that another has taken the place of is another record."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bdbench import experiment
from bdbench.cells.cell import run_id
from bdbench.grids import grid
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from tests.plugins.backdoorbench.conftest import Clean


def replace(folder: Path, clean: Clean, poisons: tuple[int, ...]) -> None:
    """Another record of the same size at the same path and of the same time."""
    before = (folder / "attack_result.pt").stat()
    shutil.rmtree(folder)
    clean.badnet(folder, poisons)
    os.utime(folder / "attack_result.pt", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (folder / "attack_result.pt").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_it_is_read_anew_in_the_same_process(tmp_path: Path, clean: Clean) -> None:
    attack = BackdoorBenchRecord(record=str(clean.badnet(tmp_path / "r")))
    assert np.flatnonzero(attack.poisoned_set(clean.train, 4).roles).tolist() == [7, 21, 38]
    replace(tmp_path / "r", clean, (7, 22, 39))
    assert np.flatnonzero(attack.poisoned_set(clean.train, 4).roles).tolist() == [7, 22, 39]


def test_it_is_another_run_and_makes_the_cell_of_a_grid_stale(tmp_path: Path, clean: Clean) -> None:
    attack = f"backdoorbench:record={clean.badnet(tmp_path / 'r')},weights=false"
    data, model = f"npz:path={clean.file}", "convnet:width=4,epochs=1"
    file = tmp_path / "grid.toml"
    lists = {"datasets": data, "models": model, "attacks": attack, "defenses": "random"}
    file.write_text("".join(f'{name} = ["{spec}"]\n' for name, spec in lists.items()))
    (job,) = grid.read(file).jobs()
    (defense,) = job.defenses

    def config() -> dict[str, Any]:
        own = {"attack": attack, "dataset": data, "model": model, "device": "cpu", "out": tmp_path / "runs"}
        return experiment.cell(**own).config(defense)

    first = config()
    assert job.files(defense) == first["files"]
    replace(tmp_path / "r", clean, (7, 22, 39))
    second = config()
    # By what its files hold a grid knows that a cell is stale.
    assert job.files(defense) == second["files"] != first["files"]
    assert first["data"]["poisoned"] != second["data"]["poisoned"]
    assert run_id(first, 0, "cpu") != run_id(second, 0, "cpu")
