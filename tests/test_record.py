from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bdbench
from bdbench import BdbenchError, record


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bdbench.Record, Path]:
    from tests.conftest import TINY

    out = tmp_path_factory.mktemp("runs")
    result = bdbench.run(defense="random", out=out, **TINY)
    return result, out / result.id


def test_a_record_is_read_back_as_it_was(written: tuple[bdbench.Record, Path]) -> None:
    result, folder = written
    assert record.read(folder) == result
    assert record.read(folder / "record.json") == result


def test_a_record_names_all_that_the_format_promises(written: tuple[bdbench.Record, Path]) -> None:
    data = json.loads((written[1] / "record.json").read_text())
    record.validate(data)
    assert set(data) == {
        "schema", "id", "seed", "config", "oracles", "environment", "before", "detection", "after", "derived",
        "cost", "extra", "definitions",
    }  # fmt: skip
    assert data["config"]["recipe"]["epochs"] == 2
    assert data["config"]["attack"] == {
        "name": "badnets", "target": 0, "rate": 0.05, "size": 3, "corner": "bottom-right", "margin": 0,
        "pattern": "checker",
    }  # fmt: skip
    assert data["config"]["data"]["poisons"] == 15
    assert set(data["cost"]["seconds"]) == {"data", "poison", "victim", "score", "retrain"}
    assert data["environment"]["threads"] >= 1


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for parent in parents:
        data = data[parent]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "bdbench.record/0", "schema 'bdbench.record/0' is not supported: expected 'bdbench.record/1'"),
        ("detection/auroc", 1.5, "not a valid record at detection/auroc"),
        ("before/clean_accuracy", None, "at before/clean_accuracy"),
        ("surprise", 1, "at top level"),
        ("seed", -1, "at seed"),
    ],
)
def test_an_invalid_record_is_refused(
    written: tuple[bdbench.Record, Path], tmp_path: Path, path: str, value: Any, message: str
) -> None:
    data = written[0].to_dict()
    data = json.loads(json.dumps(data))
    _set(data, path, value)
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(BdbenchError, match=message):
        record.read(tmp_path)


def test_a_missing_or_garbled_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="no record at"):
        record.read(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(BdbenchError, match="cannot read the record"):
        record.read(tmp_path)
