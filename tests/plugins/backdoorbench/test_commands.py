"""bdbench import."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.plugins.backdoorbench.conftest import Clean, invoke


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_import_tells_what_a_record_holds_and_how_to_run_on_it(
    tmp_path: Path, clean: Clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clean.badnet(tmp_path / "record" / "badnet_demo")
    options = ["--dataset", f"npz:path={clean.file}"]
    found = json.loads(invoke("import", "backdoorbench", str(folder), *options, "--json").stdout)
    assert found["poisons"] == 3 and found["cover_examples"] == 0 and found["targets"] == [0]
    assert found["training_images"] == 40 and found["triggered_tests"] == 18
    assert found["model"] == "preact-resnet18"
    assert f"--model preact-resnet18 --attack backdoorbench:record={folder}" in found["command"]
    shown = invoke("import", "backdoorbench", str(folder), *options)
    assert shown.exit_code == 0 and "poison rate" in shown.stdout and "bdbench run --dataset npz" in shown.stdout
    lost = invoke("import", "backdoorbench", str(tmp_path / "nowhere"))
    assert lost.exit_code == 2 and "no record at" in lost.stderr and len(lost.stderr.splitlines()) == 1


def test_published_results_are_labelled_and_empty_rows_counted(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text(
        "dataset,backbone,attack_name,defense_name,ratio,test_acc,test_asr,test_ra\n"
        "cifar10,preactresnet18,badnet,ac,0.1,88.8,96.2,3.5\n"
        "cifar10,preactresnet18,wanet,ac,0.1,,,\n"
        "cifar10,preactresnet18,badnet,nc,0.05,91.0,0.9,\n"
    )
    out = tmp_path / "table.csv"
    result = invoke("import", "backdoorbench-results", str(file), "--csv", str(out))
    assert result.exit_code == 0, result.output
    assert "published by BackdoorBench, not measured by bdbench" in result.stdout
    assert "0.962" in result.stdout and "2 rows; 1 without a number left out" in result.stderr
    lines = lines_of(out)
    assert lines[0].startswith("source,dataset,model,attack,defense,rate,clean_accuracy")
    assert lines[2] == "published by BackdoorBench,cifar10,preactresnet18,badnet,nc,0.05,0.91,0.009000000000000001,"
    head = lines_of(file)[0]
    file.write_text(f"{head}\n=HYPERLINK(A1),@b,-c,+d,.1,50,50,50\n")
    assert invoke("import", "backdoorbench-results", str(file), "--csv", str(out)).exit_code == 0
    assert lines_of(out)[1] == "published by BackdoorBench,'=HYPERLINK(A1),'@b,'-c,'+d,0.1,0.5,0.5,0.5"
    file.write_text(f"{head}\ncifar10,\x1b[31mred,badnet,ac,.1,50,50,50\n")
    odd = invoke("import", "backdoorbench-results", str(file))
    assert odd.exit_code == 2 and r"line 2: backbone='\x1b[31mred': expected a name of printable" in odd.stderr
    file.write_text("dataset,backbone\na,b\n")
    wrong = invoke("import", "backdoorbench-results", str(file))
    assert wrong.exit_code == 2 and "no column 'attack_name'" in wrong.stderr
    for row in ("inf,50,50,50", ".1,-5,50,50", ".1,50,101,50"):
        file.write_text(f"{head}\na,b,c,d,{row}\n")
        wrong = invoke("import", "backdoorbench-results", str(file))
        assert wrong.exit_code == 2 and ": expected a share, in 0..1 or in percent" in wrong.stderr
    file.write_text(f"{head}\n{'a' * 200_000},b,c,d,.1,50,50,50\n")
    os.mkfifo(tmp_path / "pipe.csv")
    for odd in (file, tmp_path / "pipe.csv", Path("/dev/zero")):
        wrong = invoke("import", "backdoorbench-results", str(odd))
        assert wrong.exit_code == 2 and len(wrong.stderr.splitlines()) == 1 and "cannot read" in wrong.stderr


@pytest.mark.parametrize("name", ["my records/a,b", "it's", "plain"])
def test_the_command_that_import_prints_works(tmp_path: Path, clean: Clean, name: str) -> None:
    """Whatever the path, and whether the folder or the file in it is named."""
    folder = clean.badnet(tmp_path / name)
    for given in (folder, folder / "attack_result.pt"):
        found = invoke("import", "backdoorbench", str(given), "--dataset", f"npz:path={clean.file}", "--json")
        words = shlex.split(json.loads(found.stdout)["command"])
        assert words[:2] == ["bdbench", "run"]
        options = ("--model", "convnet:epochs=1", "--defense", "random", "--device", "cpu", "--dry-run")
        done = invoke(*words[1:], *options)
        assert done.exit_code == 0, done.output
