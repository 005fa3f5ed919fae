"""scores.npz of another run is noticed by whatever reads the run, and by old records so far as can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bdbench
from bdbench import BdbenchError
from bdbench.cells import beside
from bdbench.cli import cli
from bdbench.storage import record, schemas
from tests.conftest import TINY

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Folders of runs of one size that differ in their defense, seed, budget or attack."""
    out = tmp_path_factory.mktemp("runs")

    def run(defense: str, **changes: Any) -> Path:
        return out / bdbench.run(defense=defense, out=out, **{**TINY, **changes}).id

    return {
        "one": run("low-loss"),
        "other": run("random"),
        "seed": run("low-loss", seed=1),
        "budget": run("low-loss", budget=0.2),
        "control": run("low-loss", attack="none"),
        "other control": run("random", attack="none"),
        "inputs": run("strip"),
        "other inputs": run("scale-up"),
    }


@pytest.fixture
def copy(tmp_path: Path, made: Runs) -> Any:
    """One run's folder with the scores.npz of another; old: as if its record were of a time before digests."""

    def copied(name: str, scores_of: str, old: bool) -> Path:
        folder = tmp_path / made[name].name
        shutil.copytree(made[name], folder)
        shutil.copy(made[scores_of] / "scores.npz", folder)
        if old:
            data = json.loads((folder / "record.json").read_text())
            del data["arrays"], data["digest"]
            (folder / "record.json").write_text(schemas.dumps(data))
        return folder

    return copied


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("name", "scores_of", "why"),
    [
        ("one", "other", "AUROC"),
        ("one", "seed", "roles"),
        ("one", "budget", "share removed"),
        ("one", "inputs", "AUROC of inputs"),
        ("control", "other control", "digest"),
        ("inputs", "other inputs", "AUROC of inputs"),
    ],
)
def test_scores_of_another_run_are_one_line(copy: Any, name: str, scores_of: str, why: str, old: bool) -> None:
    folder = copy(name, scores_of, old)
    result = CliRunner().invoke(cli, ["report", str(folder), "--device", "cpu"])
    if old and why == "digest":
        # Of an old record nothing tells: no figure of a control follows from its scores.
        assert result.exit_code == 0
        return
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert f"scores.npz is not of {folder.name}" in result.stderr and (why if old else "digest") in result.stderr
    assert not (folder / "report.html").exists()
    with pytest.raises(BdbenchError, match="is not of"):
        bdbench.reopen(folder)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["one", "control", "inputs"])
def test_a_runs_own_scores_are_read(copy: Any, name: str, old: bool) -> None:
    folder = copy(name, name, old)
    # Packed another way, they are the same.
    with np.load(folder / "scores.npz") as file:
        arrays = dict(file)
    np.savez(folder / "scores.npz", **arrays)
    opened = bdbench.reopen(folder)
    assert opened.arrays.keys() == arrays.keys()
    assert (opened.record.arrays is None) == old
    assert record.read(folder).arrays == (None if old else beside.digest(arrays))


def test_without_them_a_run_has_no_scores(copy: Any) -> None:
    folder = copy("one", "one", False)
    (folder / "scores.npz").unlink()
    assert bdbench.reopen(folder).arrays == {}


def test_a_digest_is_of_names_contents_types_and_shapes() -> None:
    one = {"a": np.arange(4), "b": np.zeros(2)}
    others = [
        {"a": np.arange(4)}, {"b": np.arange(4), "a": np.zeros(2)}, {**one, "a": np.arange(1, 5)},
        {**one, "a": np.arange(4, dtype=np.int32)}, {**one, "a": np.arange(4).reshape(2, 2)},
    ]  # fmt: skip
    assert beside.digest(one) == beside.digest(dict(reversed(one.items())))
    assert len({beside.digest(each) for each in (one, *others)}) == 6
