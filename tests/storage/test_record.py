from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError
from bdbench.components import configs
from bdbench.storage import record


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
        "schema", "definitions", "id", "seed", "stage", "control", "config", "oracles", "access", "environment",
        "before", "reference", "after", "detection", "decision", "inputs", "verdict", "p_value", "derived", "cost",
        "extra", "stealth", "floor", "digest", "arrays",
    }  # fmt: skip
    assert data["config"]["recipe"]["epochs"] == 2
    assert data["config"]["attack"] == {
        "name": "badnets", "target": 0, "rate": 0.05, "size": 3, "corner": "bottom-right", "margin": 0,
        "pattern": "checker", "mapping": "all-to-one", "targets": 1,
    }  # fmt: skip
    assert data["config"]["data"]["poisons"] == 15
    facts = data["config"]["data"]
    assert (facts["train"], facts["reserve"], facts["targets"], facts["bystanders"]) == (300, 72, [0], 0)
    assert facts["attacked"] == 360 - 36
    assert set(data["config"]["code"]) == {"model", "attack", "defense"}
    assert (data["stage"], data["control"], data["access"]) == ("training set", False, ["training_set"])
    assert set(data["cost"]["seconds"]) == {"data", "poison", "victim", "reference", "score", "retrain"}
    assert data["environment"]["threads"] >= 1
    assert data["environment"]["precision"] in ("float32", "bfloat16") and data["environment"]["processor"]


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for parent in parents:
        data = data[parent]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "bdbench.record/0", "schema 'bdbench.record/0' is not supported: expected 'bdbench.record/2'"),
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


VERSION_1 = Path(__file__).parent / "record_v1.json"


def test_a_record_of_version_1_is_read_and_keeps_its_definitions() -> None:
    found = record.read(VERSION_1)
    assert (found.schema, found.definitions) == ("bdbench.record/1", 1)
    assert (found.stage, found.control, found.access) == ("training set", False, ["training_set"])
    assert found.reference is None and found.after is not None and found.detection is not None
    assert found.p_value is not None and found.detection.auroc is not None
    with pytest.raises(BdbenchError, match="is of version 1 of the definitions: expected version 2"):
        bdbench.reopen(VERSION_1)
    with pytest.raises(BdbenchError, match="not a valid record"):
        record.write(VERSION_1.parent / "never", found, {})


def test_what_a_cell_was_made_of_tells_it_from_its_namesakes(written: tuple[bdbench.Record, Path]) -> None:
    config = json.loads(json.dumps(written[0].to_dict()["config"]))
    first = configs.identity(config)
    for path, value in {
        "data/source": "other", "recipe/epochs": 3, "files": {"picture.png": "0"}, "code/defense": "other",
    }.items():  # fmt: skip
        other = json.loads(json.dumps(config))
        _set(other, path, value)
        assert configs.cell_of(other) == configs.cell_of(config)
        assert configs.identity(other) != first
    for path, value in {"data/fingerprint": "other", "data/poisons": 3}.items():
        other = json.loads(json.dumps(config))
        _set(other, path, value)
        assert configs.identity(other) == first  # what changes with the seed is none of it


def test_a_missing_or_garbled_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="no record at"):
        record.read(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(BdbenchError, match=r"cannot read .*record\.json: Expecting property name"):
        record.read(tmp_path)


def test_no_bit_of_a_record_falls_over_unnoticed(written: tuple[bdbench.Record, Path], tmp_path: Path) -> None:
    whole = (written[1] / "record.json").read_bytes()
    rng, file = np.random.default_rng(0), tmp_path / "record.json"
    refused = 0
    for bit in rng.choice(8 * len(whole), 300, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            # Some bits say nothing: a blank between two values may be another kind of blank.
            assert record.read(file) == written[0]
        except BdbenchError:
            refused += 1
    assert refused > 250


def test_a_number_that_was_changed_is_noticed_and_records_without_a_digest_are_read(
    written: tuple[bdbench.Record, Path], tmp_path: Path
) -> None:
    data = json.loads((written[1] / "record.json").read_text())
    data["before"]["clean_accuracy"] = 0.5
    (tmp_path / "record.json").write_text(json.dumps(data))
    for read in (lambda: record.read(tmp_path), lambda: bdbench.Record.from_dict(data)):
        with pytest.raises(BdbenchError, match="not as it was written: its digest is of another record"):
            read()
    del data["digest"]
    (tmp_path / "record.json").write_text(json.dumps(data))
    assert record.read(tmp_path).before.clean_accuracy == 0.5


def test_names_of_targets_are_as_many_as_targets(written: tuple[bdbench.Record, Path], tmp_path: Path) -> None:
    data = json.loads(json.dumps(written[0].to_dict()))
    data["config"]["data"]["target_names"] = ["a", "b", "c"]
    (tmp_path / "record.json").write_text(json.dumps(record._signed(data)))
    with pytest.raises(BdbenchError, match="it names other than its 1 targets"):
        record.read(tmp_path)
