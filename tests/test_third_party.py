"""A plugin package of somebody else's: pip-installed into a fresh environment, listed, and run there."""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

import bdbench
from tests.conftest import TINY

PACKAGE = Path(__file__).parent / "plugin_packages" / "bdbench-example"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that sees the packages of this one, with the plugin installed; its bin folder.

    torch takes gigabytes, so that what this environment has is made visible there instead of copied.
    """
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root, with_pip=True)
    python = root / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True
    ).stdout.strip()
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    lines.append(str(Path(bdbench.__file__).parent.parent))
    (Path(where) / "this-environment.pth").write_text("\n".join(lines) + "\n")
    source = root / "source"
    subprocess.run(["cp", "-r", PACKAGE, source], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", source]
    subprocess.run(command, check=True, capture_output=True)
    return root / "bin"


def run(fresh: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [fresh / "python", "-m", "bdbench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_it_is_listed_with_its_distribution(fresh: Path) -> None:
    found = json.loads(run(fresh, "list", "--json").stdout)
    entries = {e["name"]: e for what in ("attacks", "defenses") for e in found[what]}
    for name in ("invert", "brightness"):
        assert entries[name]["distribution"] == "bdbench-example"
        assert entries[name]["version"] == "0.3.0"
    assert entries["brightness"]["oracles"] == ["target_label"]
    (plugin,) = (p for p in found["plugins"] if p["name"] == "example")
    assert (plugin["distribution"], plugin["version"], plugin["error"]) == ("bdbench-example", "0.3.0", None)
    assert "bdbench_run_finished" in plugin["hooks"]
    assert "poisons_kept" in {m["name"] for m in found["metrics"]}
    assert "blend" in entries


def test_it_runs_measures_and_reports(fresh: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**TINY, "attack": "invert:rate=0.1,rows=3", "defense": "brightness", "out": tmp_path}
    log = tmp_path / "log"
    done = run(fresh, "run", "--json", *(f"--{k}={v}" for k, v in options.items()), BDBENCH_EXAMPLE_LOG=str(log))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["config"]["attack"]["rows"] == 3
    assert record["oracles"] == ["target_label"]
    assert record["environment"]["versions"]["bdbench-example"] == "0.3.0"
    assert record["extra"]["poisons_kept"] == pytest.approx(30 * (1 - record["detection"]["tpr_at_budget"]))
    assert log.read_text() == record["id"] + "\n"


def test_its_command_is_there(fresh: Path) -> None:
    assert run(fresh, "hello").stdout == "hello from a plugin\n"
    assert "Greet from a plugin" in run(fresh, "--help").stdout


def test_a_second_plugin_of_the_same_names_is_an_error_that_names_both(fresh: Path, tmp_path: Path) -> None:
    source = tmp_path / "twin"
    subprocess.run(["cp", "-r", PACKAGE, source], check=True)
    (source / "bdbench_example").rename(source / "bdbench_twin")
    (source / "bdbench_twin" / "__init__.py").write_text(
        "from bdbench import hookimpl\n\n@hookimpl\ndef bdbench_register_attacks():\n"
        "    from bdbench_twin.components import Invert\n    return [Invert]\n"
    )
    project = source / "pyproject.toml"
    text = project.read_text().replace("bdbench-example", "bdbench-twin").replace("bdbench_example", "bdbench_twin")
    project.write_text(text.replace("example =", "twin ="))
    pip = [fresh / "python", "-m", "pip"]
    install = [*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", source]
    subprocess.run(install, check=True, capture_output=True)
    try:
        clash = run(fresh, "run", "--attack", "invert", "--defense", "random", "--out", str(tmp_path / "runs"))
        assert clash.returncode == 2
        assert (
            "attack 'invert' is registered twice, by bdbench-example (example) and bdbench-twin (twin)" in clash.stderr
        )
        others = run(fresh, "list", "attacks")
        assert others.returncode == 0 and "blend" in others.stdout and "warning" in others.stderr
    finally:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", "bdbench-twin"], check=True, capture_output=True)


def test_a_plugin_that_fails_to_import_is_named_and_the_rest_works(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "bdbench_sad.py").write_text("raise ImportError('libsad is not there')\n")
    info = tmp_path / "bdbench_sad-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bdbench-sad\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[bdbench]\nsad = bdbench_sad\n")
    path = {"PYTHONPATH": str(tmp_path)}
    listed = run(fresh, "list", "plugins", "--json", **path)
    sad = next(p for p in json.loads(listed.stdout) if p["name"] == "sad")
    assert "libsad is not there" in sad["error"]
    warned = run(fresh, "list", "attacks", **path)
    assert warned.returncode == 0 and "blend" in warned.stdout
    assert "plugin 'sad' of bdbench-sad is not usable: ImportError: libsad is not there" in warned.stderr
