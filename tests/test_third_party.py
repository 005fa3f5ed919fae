"""A plugin package of somebody else's: pip-installed into a fresh environment, listed, and run there."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.environments import Environment

PACKAGES = Path(__file__).parent / "plugin_packages"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A new environment with all packages of ``plugin_packages``."""
    environment = Environment(tmp_path_factory.mktemp("fresh"))
    environment.install(*sorted(PACKAGES.iterdir()))
    return environment


def test_it_is_listed_with_its_distribution(fresh: Environment) -> None:
    found = json.loads(fresh.bdbench("list", "--json").stdout)
    entries = {e["name"]: e for what in ("attacks", "defenses") for e in found[what]}
    for name in ("invert", "brightness"):
        assert entries[name]["distribution"] == "bdbench-example"
        assert entries[name]["version"] == "0.3.0"
    assert entries["brightness"]["oracles"] == ["target_labels"]
    (plugin,) = (p for p in found["plugins"] if p["name"] == "example")
    assert (plugin["distribution"], plugin["version"], plugin["error"]) == ("bdbench-example", "0.3.0", None)
    assert "bdbench_run_finished" in plugin["hooks"]
    assert "poisons_kept" in {m["name"] for m in found["metrics"]}
    assert "blend" in entries


def test_it_runs_measures_and_reports(fresh: Environment, tmp_path: Path) -> None:
    options: dict[str, Any] = {**TINY, "attack": "invert:rate=0.1,rows=3", "defense": "brightness", "out": tmp_path}
    log = tmp_path / "log"
    done = fresh.bdbench("run", "--json", *(f"--{k}={v}" for k, v in options.items()), BDBENCH_EXAMPLE_LOG=str(log))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["config"]["attack"]["rows"] == 3
    assert record["oracles"] == ["target_labels"]
    assert record["environment"]["versions"]["bdbench-example"] == "0.3.0"
    assert record["extra"]["poisons_kept"] == pytest.approx(30 * (1 - record["detection"]["tpr_at_budget"]))
    assert log.read_text() == record["id"] + "\n"


def test_its_command_is_there(fresh: Environment) -> None:
    assert fresh.bdbench("hello").stdout == "hello from a plugin\n"
    assert "Greet from a plugin" in fresh.bdbench("--help").stdout


def test_a_second_plugin_of_the_same_names_is_an_error_that_names_both(fresh: Environment, tmp_path: Path) -> None:
    source = tmp_path / "twin"
    shutil.copytree(PACKAGES / "bdbench-example", source)
    (source / "bdbench_example").rename(source / "bdbench_twin")
    (source / "bdbench_twin" / "__init__.py").write_text(
        "from bdbench import hookimpl\n\n@hookimpl\ndef bdbench_register_attacks():\n"
        "    from bdbench_twin.components import Invert\n    return [Invert]\n"
    )
    project = source / "pyproject.toml"
    text = project.read_text().replace("bdbench-example", "bdbench-twin").replace("bdbench_example", "bdbench_twin")
    project.write_text(text.replace("example =", "twin ="))
    fresh.install(source)
    try:
        clash = fresh.bdbench("run", "--attack", "invert", "--defense", "random", "--out", str(tmp_path / "runs"))
        assert clash.returncode == 2
        assert (
            "attack 'invert' is registered twice, by bdbench-example (example) and bdbench-twin (twin)" in clash.stderr
        )
        others = fresh.bdbench("list", "attacks")
        assert others.returncode == 0 and "blend" in others.stdout and "warning" in others.stderr
    finally:
        fresh.uninstall("bdbench-twin")


def test_a_plugin_that_fails_to_import_is_named_and_the_rest_works(fresh: Environment, tmp_path: Path) -> None:
    (tmp_path / "bdbench_sad.py").write_text("raise ImportError('libsad is not there')\n")
    info = tmp_path / "bdbench_sad-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bdbench-sad\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[bdbench]\nsad = bdbench_sad\n")
    path = {"PYTHONPATH": str(tmp_path)}
    listed = fresh.bdbench("list", "plugins", "--json", **path)
    sad = next(p for p in json.loads(listed.stdout) if p["name"] == "sad")
    assert "libsad is not there" in sad["error"]
    warned = fresh.bdbench("list", "attacks", **path)
    assert warned.returncode == 0 and "blend" in warned.stdout
    assert "plugin 'sad' of bdbench-sad is not usable: ImportError: libsad is not there" in warned.stderr


def test_a_run_is_reported_to_a_csv_with_a_metric_of_another_package(fresh: Environment, tmp_path: Path) -> None:
    options = [f"--{k}={v}" for k, v in {**TINY, "out": tmp_path / "runs"}.items()]
    file = tmp_path / "all.csv"
    command = ["run", "--json", "--defense=random", "--defense=low-loss", *options]
    done = fresh.bdbench(*command, cwd=tmp_path, BDBENCH_CSV=str(file))
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == [r["id"] for r in records]
    for row, record in zip(rows, records, strict=True):
        assert float(row["detection.auroc"]) == record["detection"]["auroc"]
        assert float(row["extra.r_precision"]) == record["extra"]["r_precision"]
        assert 0 <= record["extra"]["r_precision"] <= 1
    assert rows[0]["detection.cover_flagged"] == ""


def test_the_packages_pass_their_own_tests_and_the_check(fresh: Environment) -> None:
    names = ["bdbench-csv", "bdbench-r-precision"]
    tests = fresh.module("pytest", "-q", *(str(fresh.root / "sources" / name) for name in names))
    assert tests.returncode == 0, tests.stdout
    assert "passed" in tests.stdout
    checked = fresh.bdbench("plugin", "check", *names)
    assert checked.returncode == 0, checked.stdout
    assert "FAILED" not in checked.stdout and "  ok      It writes nothing on standard output" in checked.stdout
