from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fastjsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import BdbenchError
from bdbench.cli import cli
from bdbench.scanning import files
from bdbench.storage import schemas
from tests.host.test_stopping import stopped
from tests.scanning.conftest import EACH, MODEL, STAMPED, arrays, write_folder


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def scan(*arguments: str | Path) -> Result:
    return invoke("scan", *arguments, "--model", MODEL, "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_folder(root, part="train")
    return write_folder(root, stamped=0, part="test")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture
def out(folder: Path, scans: Path) -> Path:
    """Where a scan that found something left its files; made by whichever test comes first."""
    if not (scans / "out").exists():
        assert scan(folder, "--defense", "patch", "--report", scans / "out").exit_code == 1
    return scans / "out"


def test_found_is_exit_code_1(folder: Path, out: Path) -> None:
    result = scan(folder, "--defense", "patch", "--report", out)
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("Found: 6 suspicious images: 6 of 20 in 'cat' (patch; p = 0.001")
    assert "- patch rests on this" in result.stdout
    for part in ("read: 60 images of 3 classes", "models to train", "detector patch", "in all: about", "report.html"):
        assert part in result.stderr


def test_json_is_scan_json(folder: Path, out: Path) -> None:
    result = scan(folder, "--defense", "patch", "--report", out, "--json")
    told = json.loads(result.stdout)
    written = files.read(out)
    assert told == written and told["verdict"]["outcome"] == "found"
    assert told["data"]["root"] == str(folder)


def test_the_other_exit_codes(folder: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    shutil.copytree(folder / "test", clean)
    report = ("--report", tmp_path / "out")
    assert scan(clean, "--defense", "patch", *report).exit_code == 0
    assert scan(clean, "--defense", "ranks", *report).exit_code == 3
    for bad in (["missing"], [folder, "--defense", "patch:chance=x"], [folder, "--defense", "datamodel:alpha=0.99"]):
        result = scan(*bad, *report)
        assert result.exit_code == 2, bad
        assert result.stderr.strip().splitlines()[-1].startswith("bdbench: "), bad


def test_an_error_of_ours_is_no_verdict(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 would say that something was found."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("bdbench.scanning.reading._sorted_out", broken)
    for error in (IndexError("out of range"), OSError(5, "Input/output error")):
        result = scan(folder, "--defense", "patch", "--report", tmp_path / "out")
        assert result.exit_code == 70 and result.stderr.endswith(f"{type(error).__name__}: {error}\n")


def test_a_set_that_does_not_hold_together_is_bad_input(tmp_path: Path) -> None:
    images, labels = arrays()
    for odd in (labels[:-1], np.append(labels, [0, 1])):
        np.savez(tmp_path / "set.npz", x_train=images, y_train=odd)
        result = scan(tmp_path / "set.npz", "--defense", "patch", "--report", tmp_path / "out")
        assert result.exit_code == 2 and "expected one for each of 60 images" in result.stderr


def test_a_dry_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "out"
    result = scan(folder, "--defense", "patch", "--report", report, "--dry-run")
    assert result.exit_code == 0 and "in all: about" in result.stderr and result.stdout == ""
    assert not report.exists()


def test_a_dry_run_is_told_to_programs(folder: Path, tmp_path: Path) -> None:
    """What was read as in scan.json, and what it will take."""
    result = scan(folder, "--defense", "patch", "--report", tmp_path / "out", "--dry-run", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["schema"] == "bdbench-scan-plan-1"
    schema = schemas.schema("scan.schema.1.json")
    fastjsonschema.compile({**schema["properties"]["data"], "$defs": schema.get("$defs", {})})(told["data"])
    assert told["data"]["scanned"] == 3 * EACH and told["settings"]["model"].startswith("convnet:")
    estimate = told["estimate"]
    assert estimate["seconds"] > 0 and estimate["detectors"][0]["spec"] == "patch:chance=0.001"
    assert estimate["models"] == 1 and estimate["memory"] > 0


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_that_has_gone_is_no_verdict(folder: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    """Exit code 1, which click ends with, would say that something was found."""
    words = ["scan", folder, "--defense", "low-loss", "--model", MODEL, "--device", "cpu", "--report", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bdbench", *map(str, words), *form], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(120) == 141
    assert files.read(tmp_path / "out")["verdict"]["outcome"] == "cannot tell"


def test_a_verdict_is_told_though_its_files_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise BdbenchError("No space left on device")

    monkeypatch.setattr("bdbench.scanning.files.write", full)
    result = scan(folder, "--defense", "patch", "--report", tmp_path / "out")
    assert result.exit_code == 2 and result.stdout.startswith("Found: 6 suspicious images")
    assert result.stderr.splitlines()[-1] == "bdbench: No space left on device"


def test_a_report_goes_where_one_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    was = tmp_path.stat().st_ino
    assert scan(folder, "--defense", "patch", "--report", ".").exit_code == 1
    assert tmp_path.stat().st_ino == was and files.read(tmp_path)["verdict"]["outcome"] == "found"


def test_a_place_for_the_report_that_cannot_be_written_is_told_before_images_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bdbench.scanning.reading.read", lambda *_, **__: pytest.fail("read"))
    (tmp_path / "file").write_text("")
    result = scan(folder, "--defense", "patch", "--report", tmp_path / "file" / "out")
    assert result.exit_code == 2 and "file/out: Not a directory: expected a writable folder" in result.stderr


def test_images_are_counted_with_their_copies(tmp_path: Path) -> None:
    """As the lists have them, by which one acts."""
    write_folder(tmp_path / "images")
    for path in sorted((tmp_path / "images").rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    report = tmp_path / "out"
    result = scan(tmp_path / "images", "--defense", "patch", "--report", report)
    assert result.stdout.startswith(f"Found: {2 * STAMPED} suspicious images: {2 * STAMPED} of {2 * EACH} in 'cat'")
    told = files.read(report)
    assert told["verdict"]["images"] == told["detectors"][0]["flagged"] == told["groups"][0]["images"] == 2 * STAMPED
    assert told["verdict"]["classes"] == {"cat": 2 * STAMPED} and told["data"]["scanned"] == 3 * EACH
    assert len(files.names_in(report / "quarantine.txt")) == 2 * STAMPED
    text = (report / "report.html").read_text()
    assert f"{2 * STAMPED} images, {STAMPED} of them different, filed under &#39;cat&#39;" in text
    clean = scan(tmp_path / "images", "--defense", "patch:chance=0.9", "--report", report)
    assert clean.stdout.startswith(f"Cannot tell: patch marks {2 * STAMPED} images")


def test_a_report_in_the_scanned_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next scan would read its pictures."""
    monkeypatch.chdir(folder)
    for inside in ("out", "train/../out", "."):
        for more in ([], ["--dry-run"]):
            result = scan(".", "--defense", "patch", "--report", inside, *more)
            assert result.exit_code == 2, result.output
            assert (
                result.stderr
                == f"bdbench: {Path(inside)} lies in the folder that is scanned, .: expected a place outside\n"
            )
    with pytest.raises(BdbenchError, match="lies in the folder that is scanned"):
        bdbench.scan(folder, report=folder / "out", defenses=["patch"])
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]


def test_apply_says_first_and_does_then(folder: Path, out: Path, tmp_path: Path) -> None:
    new = tmp_path / "kept"
    told = invoke("scan", "apply", out, "--copy-kept", new)
    assert told.exit_code == 0 and f"would copy {3 * EACH - STAMPED} images" in told.stdout
    assert not new.exists()
    done = invoke("scan", "apply", out, "--copy-kept", new, "--yes")
    assert done.exit_code == 0, done.output
    # As an editor of another system may have left it.
    (out / "keep.txt").write_bytes((out / "keep.txt").read_bytes().replace(b"\n", b"\r\n"))
    names = {str(path.relative_to(new)) for path in new.rglob("*.png")}
    assert names == set(files.names_in(out / "keep.txt"))
    assert len(list(folder.rglob("*.png"))) == 6 * EACH
    again = invoke("scan", "apply", out, "--copy-kept", new, "--yes")
    assert again.exit_code == 2 and "is there already" in again.stderr


def test_apply_retrains_with_and_without(out: Path) -> None:
    result = invoke("scan", "apply", out, "--retrain")
    assert result.exit_code == 0, result.output
    assert f"accuracy on {3 * EACH} test images" in result.stdout and f"with the {STAMPED} suspects" in result.stdout


def test_apply_moves_what_is_suspicious(folder: Path, out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    shutil.copytree(out, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "scan.json").read_text())
    told["data"]["root"] = str(mine)
    (tmp_path / "out" / "scan.json").write_text(json.dumps(told))
    new = tmp_path / "suspects"
    assert invoke("scan", "apply", tmp_path / "out", "--move-suspects", new).exit_code == 0
    assert not new.exists() and len(list(mine.rglob("*.png"))) == 6 * EACH
    # One was moved before the program was broken off.
    (new / "train" / "cat").mkdir(parents=True)
    (mine / "train" / "cat" / "003.png").rename(new / "train" / "cat" / "003.png")
    done = invoke("scan", "apply", tmp_path / "out", "--move-suspects", new, "--yes")
    assert done.exit_code == 0 and f"moved {STAMPED - 1} images" in done.stdout, done.output
    assert len(list(new.rglob("*.png"))) == STAMPED and len(list(mine.rglob("*.png"))) == 6 * EACH - STAMPED
    again = invoke("scan", "apply", tmp_path / "out", "--move-suspects", tmp_path / "more", "--yes")
    assert again.exit_code == 2 and "is not there" in again.stderr and not (tmp_path / "more").exists()


def test_a_way_round_into_the_scanned_folder_is_none(
    folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    for inside in ("link/q", f"there/../../{tmp_path.name}/link/q", folder / "train" / ".." / "q"):
        result = invoke("scan", "apply", out, "--copy-kept", inside, "--yes")
        assert result.exit_code == 2 and "lies in the folder that was scanned" in result.stderr, inside
    monkeypatch.chdir(folder)
    beside = f"../{folder.name}-kept"
    assert invoke("scan", "apply", out, "--copy-kept", beside).exit_code == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_apply_does_not_leave_the_folder(out: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "keep.txt").write_text(f"{name}\n")
    result = invoke("scan", "apply", tmp_path / "out", "--copy-kept", tmp_path / "new", "--yes")
    assert result.exit_code == 2 and "leads out of" in result.stderr and not (tmp_path / "new").exists()


def test_apply_refuses_what_it_cannot_do(out: Path, tmp_path: Path) -> None:
    for arguments, told in (
        ([out], "0 of --copy-kept"),
        ([out, "--copy-kept", tmp_path / "a", "--move-suspects", tmp_path / "b"], "2 of --copy-kept"),
        ([tmp_path, "--copy-kept", tmp_path / "a"], "no scan at"),
        ([out, "--move-suspects", files.read(out)["data"]["root"] + "/bad"], "lies in the folder that was scanned"),
    ):
        result = invoke("scan", "apply", *arguments)
        assert result.exit_code == 2 and told in result.stderr


def test_a_scan_that_is_stopped_says_what_is_kept_and_how_it_goes_on(folder: Path, tmp_path: Path) -> None:
    words = ["scan", folder, "--defense", "low-loss", "--model", "convnet:epochs=9999", "--report", tmp_path / "out"]
    code, said = stopped(signal.SIGINT, lambda: list(tmp_path.glob("out/.stages/*/*.lock")), *words)
    assert code == 130
    assert said.splitlines()[-1].startswith(
        f"bdbench: stopped: finished stages are kept in {tmp_path}/out/.stages; to go on: bdbench"
    )
    # No verdict is there that nobody came to.
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".stages"]


@pytest.mark.slow
def test_scans_that_are_killed_go_on_to_the_same_suspects(folder: Path, tmp_path: Path) -> None:
    """SIGKILL at 20 random moments, of a scan that is started again until it ends, and of another when it has."""
    options = ["--defense", "datamodel:models=120,chunk=10,epochs=3,hidden=8", "--model", MODEL, "--device", "cpu"]
    command = [sys.executable, "-m", "bdbench", "scan", str(folder), *options, "--report"]
    start = time.monotonic()
    whole = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True)
    took = time.monotonic() - start
    assert whole.returncode in (0, 1, 3), whole.stderr
    rng, killed, ended = np.random.default_rng(0), 0, 0
    while killed < 20 or not ended:
        out = tmp_path / f"killed{ended}"
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            # What was killed often enough may end.
            said, _ = process.communicate(timeout=rng.uniform(0.2, 1.0) * took if killed < 20 else 10 * took)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        ended += 1
        assert process.returncode == whole.returncode and said == whole.stdout
        for name in ("suspects.csv", "keep.txt", "quarantine.txt"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        assert not [path for path in out.iterdir() if path.name.endswith("-old0")]
    print(f"{killed} kills of {ended} scans")
