"""``bdbench plugin new``: what it writes works at once, and what it cannot write is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bdbench import scaffold
from bdbench.cells.stages import STAGES
from bdbench.cli import cli
from tests.environments import Environment

ROOT = Path(__file__).parents[2]


def new(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plugin", "new", *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Trigger", "name 'My-Trigger' is not allowed: expected lower-case letters"),
        ("a b", "name 'a b' is not allowed"),
        ("../up", "name '../up' is not allowed"),
        ("3d", "name '3d' is not allowed"),
        ("bdbench-3d", "name 'bdbench-3d' is not allowed"),
        ("a--b", "name 'a--b' is not allowed"),
        ("a" * 31, "30 characters at most"),
        ("json", "json is a Python module already"),
        ("lambda", "lambda is a Python module already"),
        ("tests", "tests is a Python module already"),
        ("bdbench-models", "bdbench_models is a Python module already"),
        ("blend", "attack 'blend' is there already, from bdbench (triggers): expected another name"),
        ("bdbench-blend", "attack 'blend' is there already, from bdbench (triggers): expected another name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_one_line(here: Path, name: str, message: str) -> None:
    result = new(name, "--kind", "attack")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("bdbench: ") and message in line
    assert list(here.iterdir()) == []


def test_what_is_there_is_not_written_over(here: Path) -> None:
    assert new("my-trigger", "--kind", "attack").exit_code == 0
    mine = here / "my-trigger" / "my_trigger.py"
    mine.write_text("# mine\n")
    again = new("my-trigger", "--kind", "metric")
    assert again.exit_code == 2
    assert again.stderr == "bdbench: my-trigger is there already: expected a name that is not taken\n"
    assert mine.read_text() == "# mine\n"


def test_an_unknown_kind_is_refused(here: Path) -> None:
    result = new("my-trigger", "--kind", "engine")
    assert result.exit_code == 2 and "reporter" in result.stderr
    assert list(here.iterdir()) == []


# The second is as long as names may be, so that a formatter would break lines if it ever did.
DEFENSES = ("defense", "robust-training", "mitigation", "input-detector", "model-detector")
NAMES = {kind: f"bdbench-my-{kind}" for kind in scaffold.KINDS} | {"metric": "my-very-long-name-for-a-metric"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packages")
    for kind, name in NAMES.items():
        scaffold.write(name, kind, root)
    return root


@pytest.fixture(scope="module")
def fresh(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("fresh"))
    environment.install(*(packages / name for name in NAMES.values()))
    return environment


def test_new_packages_are_clean(packages: Path) -> None:
    assert len(NAMES["metric"]) == 30
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
        done = subprocess.run(command, cwd=packages, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    for file in packages.rglob("*"):
        assert "$" not in (file.read_text() if file.is_file() else "").replace("${{ matrix.python }}", "")
    for name in NAMES.values():
        (test,) = (packages / name / "tests").iterdir()
        assert len([line for line in test.read_text().splitlines() if line]) <= 5
        assert len(list((packages / name).glob("*.py"))) == 1


def test_new_packages_are_listed(fresh: Environment) -> None:
    found = json.loads(fresh.bdbench("list", "--json").stdout)
    plugins = {p["name"]: p for p in found["plugins"]}
    for kind, name in NAMES.items():
        assert (plugins[name]["distribution"], plugins[name]["version"], plugins[name]["error"]) == (
            name,
            "0.1.0",
            None,
        )
        component = {"metric": "my_very_long_name_for_a_metric"}.get(kind, f"my-{kind}")
        listed = "defenses" if kind in DEFENSES else f"{kind}s"
        assert kind == "reporter" or component in {e["name"] for e in found[listed]}
    stages = {e["name"]: e["stage"] for e in found["defenses"]}
    assert [stages[f"my-{kind}"] for kind in DEFENSES] == list(STAGES)
    assert plugins["bdbench-my-reporter"]["hooks"] == ["bdbench_run_finished"]


def test_new_packages_pass_their_own_tests(fresh: Environment, packages: Path) -> None:
    done = fresh.module("pytest", "-q", *(f"{name}/tests" for name in NAMES.values()), cwd=packages)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_new_packages_pass_the_check(fresh: Environment) -> None:
    done = fresh.bdbench("plugin", "check", *NAMES.values())
    assert done.returncode == 0, done.stdout
    assert " 0 failed, 0 skipped" in done.stdout


def test_new_packages_run_together(fresh: Environment, tmp_path: Path) -> None:
    parts = [f"--{kind}=my-{kind}" for kind in ("defense", "model", "dataset")]
    done = fresh.bdbench("run", "--json", "--attack=my-attack:size=4,rate=0.1", *parts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["before"]["clean_accuracy"] > 0.8
    assert record["before"]["attack_success_rate"] > 0.8
    assert record["extra"]["my_very_long_name_for_a_metric"] == pytest.approx(1 - record["detection"]["tpr_at_budget"])
    (line,) = (tmp_path / "bdbench-my-reporter.jsonl").read_text().splitlines()
    assert json.loads(line)["run"] == record["id"]


def test_a_new_defense_of_every_stage_runs_and_is_measured(fresh: Environment, tmp_path: Path) -> None:
    parts = [f"--defense=my-{kind}" for kind in DEFENSES[1:]]
    shared = ["--attack=my-attack:size=4,rate=0.1", "--model=my-model", "--dataset=my-dataset"]
    done = fresh.bdbench("run", "--json", *shared, *parts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert [record["stage"] for record in records] == list(STAGES[1:])
    training, repair, inputs, model = records
    assert training["after"] and training["reference"] and repair["after"]
    assert inputs["inputs"]["auroc"] > 0.6
    assert isinstance(model["verdict"]["flagged"], bool)
    assert [record["access"] for record in records] == [["training_set"], *[["clean_set"]] * 3]


def test_the_templates_are_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = {f"bdbench/scaffold/{p.name}" for p in Path(scaffold.__file__).parent.glob("*.tmpl")}
    assert len(templates) == 5 + len(scaffold.KINDS)
    assert templates <= names
