from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bdbench.cli import cli
from bdbench.components import configs
from bdbench.registry.plugins import Plugins
from tests.conftest import TINY

SMALL = [f"--{k}={v}" for k, v in TINY.items()]
# Another --attack would be a second attacker.
UNATTACKED = [option for option in SMALL if not option.startswith("--attack")]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_run_prints_a_table_and_leaves_a_record(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    result = invoke("run", *SMALL, "--defense", "random", "--defense", "low-loss", "--out", str(out))
    assert result.exit_code == 0, result.output
    for text in ("random", "low-loss", "CA %", "ASR %", "RA %", "AUROC", "TPR at 1 % FPR %", "models trained"):
        assert text in result.stdout
    assert len(list(out.glob("*/record.json"))) == len(list(out.glob("*/scores.npz"))) == 2
    shown = invoke("show", next(out.glob("*-random-*")).name, "--out", str(out))
    assert shown.exit_code == 0
    assert "AUROC" in shown.stdout and "low-loss" not in shown.stdout
    # What is shared was done once, and is not counted to each.
    spent = json.loads(next(out.glob("*-random-*/record.json")).read_text())["cost"]["seconds"]
    own = sum(s for stage, s in spent.items() if stage in ("score", "retrain"))
    assert re.search(rf"seconds +│ +{own:.1f} ", shown.stdout)
    assert re.search(rf"seconds of what all share +│ +{sum(spent.values()) - own:.1f} ", shown.stdout)


def test_run_json_is_the_record(tmp_path: Path) -> None:
    result = invoke("run", *SMALL, "--defense", "random", "--out", str(tmp_path), "--json")
    records = json.loads(result.stdout)
    assert records == [json.loads(next(tmp_path.glob("*/record.json")).read_text())]
    again = invoke("show", str(tmp_path / records[0]["id"]), "--json")
    assert json.loads(again.stdout) == records[0]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken")
    (root / "corrupt.npz").write_bytes(b"PK\x03\x04 this is no zip")
    (root / "text.npz").write_text("hello")
    good = {"y_train": np.array([0, 1]), "y_test": np.array([0, 1]), "x_test": np.zeros((2, 8, 8), np.uint8)}
    np.savez(root / "incomplete.npz", **good)
    np.savez(root / "nan.npz", x_train=np.full((2, 8, 8), np.nan), **good)
    np.savez(root / "scalar.npz", x_train=np.uint8(3), **good)
    (root / "empty").mkdir()
    (root / "file").write_text("")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "blnd"], "unknown attack 'blnd': did you mean 'blend'?"),
        (["--defense", "spectrl"], "unknown defense 'spectrl': did you mean 'spectral'?"),
        (["--dataset", "digit"], "unknown dataset 'digit': did you mean 'digits'?"),
        (["--model", "resnet"], "unknown model 'resnet': did you mean 'resnet9'?"),
        (["--attack", "blend:alpha=1.5"], "attack 'blend': alpha=1.5 is not allowed: expected float in (0, 1)"),
        (["--defense", "datamodel:alpha=0"], "defense 'datamodel': alpha=0.0 is not allowed: expected float in (0, 1)"),
        (["--defense", "datamodel:alpha=0.001"], "alpha=0.001 leaves subsets of 0 of 300 examples"),
        (["--attack", "badnets:rate=0.0001"], "rate=0.0001 asks for 0 poisons of 300 training examples"),
        (["--attack", "sig:rate=0.5"], "rate=0.5 asks for 150 poisons of 300 training examples: expected between 1"),
        (["--attack", "badnets:target=10"], "target=10 is not there: expected a label in 0..9"),
        (["--attack", "badnets:size=9"], "size=9 with margin=0 does not fit images of 8 x 8"),
        (["--attack", "blend:alpha"], "cannot read 'alpha' in 'blend:alpha'"),
        (["--attack", "blend:pattern=nowhere.png"], "attack 'blend' reads 'nowhere.png', which is not there"),
        (["--model", "resnet9"], "model 'resnet9' cannot take images of 8 x 8: expected at least 16"),
        (["--budget", "1.5"], "budget=1.5 is not allowed: expected a fraction in [0, 1)"),
        (["--budget", "0.0001"], "budget=0.0001 removes 0 of 300 training examples: expected at least 1, and not all"),
        (["--budget", "0.9999"], "budget=0.9999 removes 300 of 300"),
        (["--seed", "-1"], "seed=-1 is not allowed"),
        (["--seed", "9" * 300], "is not allowed: expected less than 2^63"),
        (["--dry-run", "--json"], "--dry-run and --json are both given: expected either"),
        (["--defense", "datamodel:models=0"], "models=0 is not allowed: expected auto|int >= 2"),
        (["--attack", "badnets:target=-1"], "target=-1 is not allowed: expected seed|int >= 0"),
        (["--device", "cpu:abc"], "device 'cpu:abc' is not available"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
        (["--model", "convnet:lr=1e30"], "training diverged at lr=1e+30"),
        (
            ["--defense", "datamodel:models=4,epochs=1,sizes=0.999"],
            "sizes=0.999 leave no group of at least 2 examples",
        ),
        (["--dataset", "npz:path=scalar.npz", "--data-root", "{root}"], "expected (n, H, W, C) and (n,)"),
        (["--device", "tpu"], "device 'tpu' is not available: expected one of auto, cpu"),
        (["--data-root", "{root}/nowhere"], "/nowhere' is not there: expected a folder"),
        (["--dataset", "imagefolder"], "needs --data-root"),
        (["--dataset", "imagefolder", "--data-root", "{root}/empty"], "/empty/train is not there"),
        (["--dataset", "cifar10", "--data-root", "{root}/empty"], "cifar10 was not found in {root}/empty"),
        (["--dataset", "npz"], "expected npz:path=FILE.npz"),
        (["--dataset", "npz:path=none.npz", "--data-root", "{root}"], "no file at {root}/none.npz"),
        (["--dataset", "npz:path=corrupt.npz", "--data-root", "{root}"], "cannot read {root}/corrupt.npz as npz"),
        (["--dataset", "npz:path=text.npz", "--data-root", "{root}"], "cannot read {root}/text.npz as npz"),
        (["--dataset", "npz:path=incomplete.npz", "--data-root", "{root}"], "has no array 'x_train'"),
        (["--dataset", "npz:path=nan.npz", "--data-root", "{root}"], "the training images hold NaN"),
        (["--dataset", "digits:subset=5000"], "subset=5000 is not allowed: the data set has 1365"),
        (["--budget", "most"], "budget=most is not allowed: expected a fraction in [0, 1), or auto"),
        (["--budget", "auto"], "budget=auto is not allowed: defense 'random' flags nothing itself"),
        (["--reserve", "1"], "reserve=1.0 is not allowed: expected a share in [0, 1)"),
        (["--out", "{root}/file/runs"], "cannot write to {root}/file/runs"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    broken: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    arguments = [a.format(root=broken) for a in arguments]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "runs")]
    defense = [] if "--defense" in arguments else ["--defense", "random"]
    small = UNATTACKED if "--attack" in arguments else SMALL
    result = invoke("run", *small, *defense, *out, *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("bdbench: ")
    assert message.format(root=broken) in line
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    "words", [["show"], ["report"], ["compare", "x"], ["scan"], ["leaderboard", "build"], ["inspect"]], ids=" ".join
)
@pytest.mark.parametrize("why", ["a long name", "a closed folder"])
def test_a_place_that_cannot_be_looked_at_is_one_line(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / ("n" * 300 if why == "a long name" else "closed/there"))
    if why == "a closed folder":
        # As nobody but root, who may enter any.
        stat = os.stat

        def closed(path: Any, **options: Any) -> os.stat_result:
            if str(path).startswith(str(tmp_path / "closed")):
                raise PermissionError(13, "Permission denied", str(path))
            return stat(path, **options)

        monkeypatch.setattr("os.stat", closed)
    result = invoke(*words, place)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("bdbench: ") and "Traceback" not in result.output and len(line) < 900


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bdbench", "list", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("bdbench: standard output: No space left on device")


def test_a_terminal_of_no_columns_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--out", str(tmp_path / "runs")]
    monkeypatch.setenv("COLUMNS", "0")
    assert "training set" in invoke("run", *SMALL, "--defense", "random", *out).stdout.replace("\n", " ")


def test_seconds_that_no_clock_tells_are_refused(tmp_path: Path) -> None:
    for command in ("scan", "inspect"):
        result = invoke(command, str(tmp_path), "--seconds", "inf")
        assert result.exit_code == 2 and "inf is not in the range 0<x<=" in result.stderr


def test_all_attacks_have_no_attack_and_one_error(tmp_path: Path) -> None:
    picture = ["--output", str(tmp_path / "all.png")]
    both = invoke("preview", "--all", "--attack", "blend", *picture)
    assert both.exit_code == 2 and "--all and --attack are both given" in both.stderr
    unknown = invoke("preview", "--all", "--dataset", "digts", *picture)
    assert unknown.exit_code == 2 and unknown.stderr.count("did you mean 'digits'") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "badnets:target=10"], "target=10 is not there: expected a label in 0..9"),
        (["--attack", "badnets:size=9"], "size=9 with margin=0 does not fit images of 8 x 8"),
        (["--attack", "badnets:rate=0.0001"], "rate=0.0001 asks for 0 poisons of 300 training examples"),
        (["--attack", "blend:pattern=nowhere.png"], "attack 'blend' reads 'nowhere.png', which is not there"),
        (["--attack", "blend", "--budget", "1e-9"], "budget=1e-09 removes 0 of 300 training examples"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = ["--out", str(tmp_path / "runs")]
    result = invoke("run", *UNATTACKED, "--defense", "random", *out, *arguments, "--dry-run")
    (line,) = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and message in line and result.stdout == "" and not (tmp_path / "runs").exists()


def test_defenses_of_several_stages_have_a_table_each(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "runs")]
    result = invoke("run", *UNATTACKED, *out, "--defense", "random", "--defense", "low-loss", "--attack", "badnets")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("training set, budget 10 %") == 1
    assert "reference: plain training" in result.stdout and "after removal and retraining" in result.stdout
    assert "-" not in {row.split("│")[2].strip() for row in result.stdout.splitlines() if row.count("│") == 4}


def test_a_preview_of_all_attacks_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.registry.plugins import installed

    names = ("badnets", "blend", "none", "sig")
    kept = [known for known in installed().registered("attack") if known.name in names]
    monkeypatch.setattr(type(installed()), "registered", lambda self, kind: kept)
    picture = tmp_path / "all.png"
    result = invoke("preview", "--all", "--output", str(picture), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 0 and picture.read_bytes()[:4] == b"\x89PNG"
    said = [line for line in result.output.splitlines() if line.startswith("left out")]
    assert [line.split(":")[1].strip() for line in said] == ["none", "sig"]
    assert "nothing is attacked" in said[0] and "frequency=6" in said[1]


def test_several_attacks_are_a_cascade(tmp_path: Path) -> None:
    attacks = ["--attack", "badnets:rate=0.05", "--attack", "blend:target=3,rate=0.05"]
    result = invoke("run", *UNATTACKED, *attacks, "--defense", "random", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("cascade badnets & blend on digits, convnet, seed 0, target 0+3\n")
    for text in ("ASR to 0 %", "ASR to 3 %", "worst goal's ASR %", "attacks=[badnets:target=0,rate=0.05,"):
        assert text in result.stdout
    found = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    assert [part["name"] for part in found["config"]["attack"]["attacks"]] == ["badnets", "blend"]
    # The command that a table names for it makes the same run.
    words = shlex.split(configs.command(found["config"], found["seed"]))[2:]
    again = invoke("run", *words, "--json", "--device", "cpu", "--out", str(tmp_path / "again"))
    assert json.loads(again.stdout)[0]["id"] == found["id"]
    wrong = invoke("run", *UNATTACKED, "--attack", "badnets", "--attack", "blnd")
    assert wrong.exit_code == 2 and "unknown attack 'blnd': did you mean 'blend'?" in wrong.stderr
    picture = tmp_path / "both.png"
    seen = invoke("preview", *attacks, "--output", str(picture), "--out", str(tmp_path))
    assert seen.exit_code == 0 and picture.exists()


def test_a_preview_shows_an_attack_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a preview trains no model")

    monkeypatch.setattr("bdbench.networks.training.Trainer.train", refuse)
    picture = tmp_path / "seen.png"
    out = ["--out", str(tmp_path / "runs")]
    result = invoke("preview", "--attack", "badnets:mapping=all-to-all", "--output", str(picture), *out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(picture) and Image.open(picture).width > 800
    for arguments, message in (
        (["--attack", "none"], "attack 'none' changes no image: there is nothing to see"),
        (["--output", "seen.gif"], "'seen.gif' is no picture: expected a name that ends in .png, .svg, .pdf"),
        (["--attack", "blnd"], "unknown attack 'blnd': did you mean 'blend'?"),
    ):
        wrong = invoke("preview", *arguments, *out)
        assert wrong.exit_code == 2 and message in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_show_of_nothing_is_an_error(tmp_path: Path) -> None:
    result = invoke("show", "nothing", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert f"no record at {tmp_path}/nothing" in result.stderr


def test_list_says_what_there_is_and_where_from() -> None:
    found = json.loads(invoke("list", "--json").stdout)
    assert set(found) == {"attacks", "defenses", "datasets", "models", "metrics", "plugins"}
    names = {what: {e["name"] for e in entries} for what, entries in found.items()}
    assert names["attacks"] >= {"badnets", "blend", "none", "sig"}
    assert names["defenses"] >= {"activation-clustering", "datamodel", "low-loss", "random", "spectral"}
    assert names["models"] >= {"convnet", "preact-resnet18", "resnet9"}
    assert names["datasets"] >= {
        "cifar10", "cifar100", "digits", "fashionmnist", "gtsrb", "imagefolder", "mnist", "npz", "svhn",
    }  # fmt: skip
    blend = next(e for e in found["attacks"] if e["name"] == "blend")
    alpha = next(p for p in blend["parameters"] if p["name"] == "alpha")
    assert alpha == {
        "name": "alpha", "type": "float", "default": 0.2, "help": "weight of the pattern",
        "allowed": "float in (0, 1)",
    }  # fmt: skip
    assert "1712.05526" in blend["paper"]
    assert (blend["plugin"], blend["distribution"]) == ("triggers", "bdbench")
    assert all(p["help"] for what in found if what != "plugins" for e in found[what] for p in e["parameters"])


@pytest.mark.parametrize("what", ["attacks", "defenses", "datasets", "models", "metrics", "plugins"])
def test_list_of_one_kind(what: str) -> None:
    assert json.loads(invoke("list", what, "--json").stdout) == json.loads(invoke("list", "--json").stdout)[what]
    assert invoke("list", what).stdout.startswith(what)


def test_list_of_a_name_is_of_that_alone() -> None:
    found = json.loads(invoke("list", "attacks", "blend", "sig", "--json").stdout)
    assert [entry["name"] for entry in found] == ["blend", "sig"]
    shown = invoke("list", "defenses", "spectral").stdout
    assert "spectral" in shown and "datamodel" not in shown
    result = invoke("list", "attacks", "blnd")
    assert result.exit_code == 2 and "unknown attack 'blnd': did you mean 'blend'?" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["run", "--help"]])
def test_no_torch_is_imported_where_none_is_needed(arguments: list[str]) -> None:
    code = (
        f"import sys; from bdbench.cli import main; sys.argv = ['bdbench', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'numba', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_reading_records_imports_no_torch(tiny: dict[str, Any]) -> None:
    import bdbench

    path = tiny["out"] / bdbench.run(defense="random", **tiny).id
    code = f"import sys, bdbench.storage.record, pathlib; bdbench.storage.record.read(pathlib.Path({str(path)!r}))\n"
    code += "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plugin_check_that_fails_says_what_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_baselines.random import Random

    registered = Plugins.registered
    # Not all of them: some train for minutes by their defaults.
    few = ("random", "spectral")
    monkeypatch.setattr(Plugins, "registered", lambda self, kind: [r for r in registered(self, kind) if r.name in few])
    monkeypatch.setattr(Random, "score", lambda self, view, tools: np.zeros(3))
    result = invoke("plugin", "check", "baselines")
    assert result.exit_code == 1
    assert "  FAILED  scores-are-finite-float64\n" in result.stdout
    assert "found:    float64 (3,) for n = 60\n" in result.stdout
    assert "why:      The ranking is over the whole set" in result.stdout
    assert "defense 'spectral'\n  ok      " in result.stdout
    assert result.stdout.splitlines()[-1].endswith(" 5 failed, 0 skipped")
    quiet = invoke("plugin", "check", "baselines", "--quiet")
    assert quiet.exit_code == 1 and quiet.stdout.splitlines()[-1] == result.stdout.splitlines()[-1]
    assert "  ok      " not in quiet.stdout and "spectral" not in quiet.stdout
    assert quiet.stdout.startswith("defense 'random'\n") and quiet.stdout.count("  FAILED  ") == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["triggrs"], "unknown plugin 'triggrs': did you mean 'triggers'?"),
        (["triggers", "--using", "blnd:rate=0.1"], "unknown component of triggers 'blnd': did you mean 'blend'?"),
        (["triggers", "--using", "blend:rate=2"], "attack 'blend': rate=2.0 is not allowed"),
    ],
)
def test_a_plugin_check_of_nothing_is_an_error(arguments: list[str], message: str) -> None:
    result = invoke("plugin", "check", *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert message in line
