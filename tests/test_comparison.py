from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import record
from bdbench.cli import cli
from tests.conftest import TINY


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bdbench.run(defense="random", out=tmp_path_factory.mktemp("runs"), **TINY).to_dict()


def written(template: dict[str, Any], folder: Path, defense: str, aurocs: dict[int, float | None]) -> list[str]:
    """Record files of a defense with those AUROCs by seed."""
    paths = []
    for seed, auroc in aurocs.items():
        data = json.loads(json.dumps(template))
        data |= {"seed": seed, "id": f"{defense}-{seed}"}
        data["config"]["defense"] = {"name": defense}
        data["detection"]["auroc"] = auroc
        paths.append(str(folder / f"{data['id']}.json"))
        Path(paths[-1]).write_text(record.dumps(data))
    return paths


def compare(*runs: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *runs])


def test_differences_are_paired_by_seed(template: dict[str, Any], tmp_path: Path) -> None:
    one = written(template, tmp_path, "one", {0: 0.5, 1: 0.6, 2: 0.9, 7: 0.1})
    two = written(template, tmp_path, "two", {2: 0.92, 1: 0.61, 0: 0.53, 8: 0.2})
    found = json.loads(compare(*one, *two, "--json").stdout)
    assert found["baseline"] == "one" and [c["cell"] for c in found["cells"]] == ["two"]
    auroc = next(d for d in found["cells"][0]["differences"] if d["number"] == "AUROC")
    assert auroc["seeds"] == [0, 1, 2]
    differences = np.array([0.03, 0.01, 0.02])
    # Student's t with 2 degrees of freedom: 4.302653.
    half = 4.302653 * differences.std(ddof=1) / 3**0.5
    assert auroc["difference"] == pytest.approx(0.02)
    assert (auroc["low"], auroc["high"]) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-5)
    assert (auroc["baseline"], auroc["mean"]) == pytest.approx((2.0 / 3, 2.06 / 3))
    shown = compare(*one, *two)
    assert shown.exit_code == 0 and "+0.020" in shown.stdout and "differences from one" in shown.stdout


def test_what_one_of_a_pair_lacks_is_left_out(template: dict[str, Any], tmp_path: Path) -> None:
    one = written(template, tmp_path, "one", {0: 0.5, 1: None})
    two = written(template, tmp_path, "two", {0: 0.6, 1: 0.7})
    found = json.loads(compare(*one, *two, "--json").stdout)
    auroc = next(d for d in found["cells"][0]["differences"] if d["number"] == "AUROC")
    assert auroc["seeds"] == [0] and auroc["low"] is None


def test_what_cannot_be_compared_is_one_line(template: dict[str, Any], tmp_path: Path) -> None:
    one = written(template, tmp_path, "one", {0: 0.5, 1: 0.6})
    two = written(template, tmp_path, "two", {3: 0.5})
    for runs, message in (
        (one, "the runs differ in nothing but their seeds"),
        ([*one, *two], "two has seeds 3: expected one of 0, 1"),
        ([one[0], one[0], *two], "seed 0 of one-0 is given twice"),
        (["nowhere"], "no record at runs/nowhere"),
    ):
        result = compare(*runs)
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
