from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench import BdbenchError
from bdbench_datamodel.matrixfile import read_matrix


def _written(folder: Path, name: str, weights: np.ndarray) -> Path:
    path = folder / name
    if name == "named.npz":
        np.savez(path, weight=weights, bias=np.zeros(3))
    elif name == "one.npz":
        np.savez(path, w=weights)
    elif name == "release.pt":
        torch.save({"weight": torch.tensor(weights), "bias": torch.zeros(3)}, path)
    elif name == "plain.pt":
        torch.save(torch.nn.Parameter(torch.tensor(weights, dtype=torch.bfloat16)), path)
    else:
        np.save(path, weights)
    return path


@pytest.mark.parametrize("name", ["a.npy", "one.npz", "named.npz", "release.pt", "plain.pt"])
def test_a_matrix_is_read_from_any_file_in_either_orientation(tmp_path: Path, name: str) -> None:
    weights = np.arange(9, dtype=np.float32).reshape(3, 3)
    path = _written(tmp_path, name, weights)
    release = name in ("named.npz", "release.pt")
    weights /= 8  # in units of the largest entry
    assert np.array_equal(read_matrix(path, 3), weights.T if release else weights)
    assert np.array_equal(read_matrix(path, 3, "targets"), weights)
    assert np.array_equal(read_matrix(path, 3, "sources"), weights.T)


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_the_unit_of_a_matrix_is_of_no_account(tiny: dict[str, Any], tmp_path: Path, unit: float) -> None:
    weights = np.random.default_rng(0).normal(size=(300, 300))
    np.save(tmp_path / "one.npy", weights)
    np.save(tmp_path / "other.npy", weights * unit)
    runs = [bdbench.run(defense=f"datamodel:matrix={tmp_path / name}", **tiny) for name in ("one.npy", "other.npy")]
    one, other = (np.load(tiny["out"] / run.id / "scores.npz")["scores"] for run in runs)
    assert other == pytest.approx(one) and len(np.unique(one)) > 1


def test_a_bad_matrix_is_one_sentence(tmp_path: Path) -> None:
    square = np.zeros((3, 3))
    np.savez(tmp_path / "two.npz", a=square, b=square)
    np.save(tmp_path / "nan.npy", square * np.nan)
    np.save(tmp_path / "good.npy", square)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.pt").write_text("no tensor")
    (tmp_path / "words.pt").write_text("hello world")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:100])
    (tmp_path / "cut.npy").write_bytes(b"PK\x03\x04")
    for name, message in {
        "two.npz": "holds a, b: expected one array",
        "nan.npy": "NaN or infinite",
        "absent.npy": "is not there",
        "text.npy": "is not readable",
        "text.pt": "is not readable",
        "words.pt": "is not readable",
        "cut.npz": "is not readable",
        "cut.npy": "is not readable",
        "good.csv": "ends in .npy, .npz, .pt",
    }.items():
        with pytest.raises(BdbenchError, match=message):
            read_matrix(tmp_path / name, 3)
    with pytest.raises(BdbenchError, match=r"is \(3, 3\): expected \(4, 4\)"):
        read_matrix(tmp_path / "good.npy", 4)


def test_a_matrix_from_elsewhere_finds_the_group_that_it_holds(tiny: dict[str, Any], tmp_path: Path) -> None:
    roles = np.load(tiny["out"] / bdbench.run(defense="random", **tiny).id / "scores.npz")["roles"]
    weights = np.random.default_rng(0).normal(size=(300, 300))
    weights[np.ix_(roles == 1, roles == 1)] += 3
    np.save(tmp_path / "w.npy", weights)
    record = bdbench.run(defense=f"datamodel:matrix={tmp_path / 'w.npy'}", **tiny)
    assert record.detection is not None and record.detection.auroc == 1.0
    assert record.p_value is not None and record.p_value < 0.05
    assert record.cost.models_trained == 1
    # The same name, another matrix: another result.
    np.save(tmp_path / "w.npy", np.random.default_rng(1).normal(size=(300, 300)))
    other = bdbench.run(defense=f"datamodel:matrix={tmp_path / 'w.npy'}", **tiny)
    assert other.detection is not None and other.detection.auroc < 1.0
    assert other.id != record.id and other.config["files"].keys() == {str(tmp_path / "w.npy")}


def test_a_matrix_that_is_not_there_is_missed_before_anything_is_trained(tiny: dict[str, Any]) -> None:
    with pytest.raises(BdbenchError, match="reads '/absent.npy', which is not there: expected a file"):
        bdbench.run(defense="datamodel:matrix=/absent.npy", **tiny)
    assert not list((tiny["out"] / ".stages").rglob("arrays.npz"))
