"""The exported detection method, run inside a BackdoorBench of stubs: the modules it imports, and no more."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bdbench import BdbenchError, Role
from bdbench.cli import cli
from bdbench_backdoorbench.commands import add
from bdbench_backdoorbench.detector import write
from bdbench_models.architectures import PreActResNet18
from tests.plugins.backdoorbench.files import write_record

# load_attack_result as its callers see it: a wrapper around a set that yields image, label, place, mark, true label.
_LOADER = """
import numpy as np
import torch
from PIL import Image


class Wrapper:
    def __init__(self, wrapped_dataset):
        self.wrapped_dataset = wrapped_dataset


class Poisoned:
    def __init__(self, clean, state):
        self.clean, self.state = clean, state

    def __len__(self):
        return len(self.state["original_index_array"])

    def __getitem__(self, i):
        place = self.state["original_index_array"][i]
        if self.state["poison_indicator"][place] == 0:
            image, label = self.clean[place]
            return image, label, place, 0, label
        entry = self.state["bd_data_container"]["data_dict"][place]
        label, original = entry["other_info"]
        return Image.open(entry["path"]), label, place, 1, original


def load_attack_result(path):
    result = torch.load(path)
    with np.load("data/cifar10.npz") as file:
        clean = [(Image.fromarray(x), int(y)) for x, y in zip(file["x"], file["y"])]
    return {"model": result["model"], "bd_train": Wrapper(Poisoned(clean, result["bd_train"]))}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A BackdoorBench with a record of 60 images; poisons are white, and one of them is correctly labelled."""
    for package, module, code in (
        ("defense", "base", "class defense:\n    pass\n"),
        ("utils", "save_load_attack", _LOADER),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / f"{module}.py").write_text(code)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (60, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(60) % 10
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10.npz", x=images, y=labels)
    white = np.full((32, 32, 3), 255, np.uint8)
    train = {i: (white, y, int(labels[i])) for i, y in ((3, 0), (17, 0), (25, 0), (36, 6))}
    torch.manual_seed(0)
    (tmp_path / "detection_pretrain").mkdir()
    write_record(
        tmp_path / "record" / "badnet_demo",
        train,
        {1: (white, 0, 1)},
        sizes=(60, 20),
        classes=10,
        shape=(32, 32, 3),
        weights=PreActResNet18().build((32, 32, 3), 10).state_dict(),
        train_index=rng.permutation(60),
    )
    return tmp_path


def test_the_method_runs_there_and_writes_its_table_and_our_scores(root: Path) -> None:
    add(cli)
    done = CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(root), "--defense", "low-loss"])
    assert done.exit_code == 0, done.output
    method = root / "detection_pretrain" / "low_loss_of_bdbench.py"
    assert str(method) in done.stdout
    assert len(list((root / "config" / "detection" / "low_loss_of_bdbench").glob("*.yaml"))) == 5
    command = [
        sys.executable,
        "detection_pretrain/low_loss_of_bdbench.py",
        "--result_file",
        "badnet_demo",
        "--device",
        "cpu",
    ]
    for _ in range(2):
        ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    folder = root / "record" / "badnet_demo" / "detection" / "low_loss_of_bdbench"
    with (folder / "detection_info.csv").open(newline="") as file:
        head, row, again = csv.reader(file)
    assert head == ["record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target"]
    assert row == again and row[0] == "badnet_demo" and row[-1] == "Unknown"
    tn, fp, fn, tp = map(int, row[1:5])
    assert (tn + fp, fn + tp, fp + tp) == (56, 4, 6)
    assert float(row[5]) == tp / 4 and float(row[6]) == fp / 56
    with np.load(folder / "scores.npz") as arrays:
        scores, roles, kept = arrays["scores"], arrays["roles"], arrays["kept"]
    order = torch.load(root / "record" / "badnet_demo" / "attack_result.pt", weights_only=False)["bd_train"]
    places = order["original_index_array"]
    assert sorted(places[roles == Role.POISON]) == [3, 17, 25] and places[roles == Role.COVER].tolist() == [36]
    assert (~kept).sum() == 6 and scores[~kept].min() >= scores[kept].max()
    assert len(set(scores[np.isin(places, [3, 17, 25])].round(5))) == 1


def test_a_detector_runs_there_whatever_its_package_is_called_and_a_mistyped_record_is_one_line(root: Path) -> None:
    add(cli)
    spec = "datamodel:models=20,starts=2"
    assert CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(root), "--defense", spec]).exit_code == 0
    command = [sys.executable, "detection_pretrain/datamodel_of_bdbench.py", "--result_file"]
    ran = subprocess.run([*command, "NOSUCH"], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("bdbench: no record at record/NOSUCH")
    assert len(ran.stderr.splitlines()) == 1 and not (root / "record" / "NOSUCH").exists()
    # The plugin's own module is found, not the script: all that was wrong is that there is nothing to run it on.
    found = "import sys; sys.path.insert(0, 'detection_pretrain'); import bdbench_datamodel as m; print(m.__file__)"
    where = subprocess.run([sys.executable, "-c", found], cwd=root, capture_output=True, text=True).stdout
    assert where.strip().endswith("bdbench_datamodel/__init__.py")


def changed(root: Path, **values: object) -> None:
    file = root / "record" / "badnet_demo" / "attack_result.pt"
    torch.save({**torch.load(file, weights_only=False), **values}, file)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"bd_train": None}, [], "the record record/badnet_demo cannot be imported: it holds no training set"),
        ({"clean_data": "celeba"}, [], "unknown BackdoorBench data set 'celeba'"),
        ({}, ["--yaml_path", "config/nowhere.yaml"], "cannot read config/nowhere.yaml: [Errno 2]"),
        ({}, ["--yaml_path", "defense/__init__.py"], "cannot read defense/__init__.py: expected a table of options"),
    ],
)
def test_what_it_cannot_run_on_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], options: list[str], message: str
) -> None:
    add(cli)
    CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(root), "--defense", "random"])
    changed(root, **values)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    script = "detection_pretrain/random_of_bdbench.py"
    monkeypatch.setattr(sys, "argv", [script, "--result_file", "badnet_demo", *options])
    with monkeypatch.context() as apart:
        for name in ("defense", "defense.base", "utils", "utils.save_load_attack"):
            apart.delitem(sys.modules, name, raising=False)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
    for name in [n for n in sys.modules if n.split(".")[0] in ("defense", "utils")]:
        del sys.modules[name]
    assert str(ended.value).startswith(f"bdbench: {message}") and "\n" not in str(ended.value)
    assert not (root / "record" / "badnet_demo" / "detection").exists()


@pytest.mark.parametrize("parts", [[], ["detection_pretrain"], ["detection_pretrain", "utils/save_load_attack.py"]])
def test_a_folder_that_is_not_its_root_is_refused(tmp_path: Path, parts: list[str]) -> None:
    add(cli)
    for part in parts:
        (tmp_path / part).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(tmp_path), "--defense", "random"])
    assert done.exit_code == 2 and "is not BackdoorBench's root" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_could_run_something_is_not_handed_to_its_loader(root: Path) -> None:
    add(cli)
    CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(root), "--defense", "random"])

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("open('ran', 'w').close()",)

    torch.save({"model": Evil()}, root / "record" / "badnet_demo" / "attack_result.pt")
    command = [sys.executable, "detection_pretrain/random_of_bdbench.py", "--result_file", "badnet_demo"]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ran.returncode != 0 and "it asks for __builtin__.exec, which is refused" in ran.stderr
    assert not (root / "ran").exists()


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    add(cli)
    done = CliRunner().invoke(cli, ["export-detector", "backdoorbench", str(tmp_path), "--defense", "spectrall"])
    assert done.exit_code == 2 and "unknown defense 'spectrall': did you mean 'spectral'?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_spec_with_quotes_is_yaml_and_one_that_needs_more_is_refused(root: Path) -> None:
    yaml = pytest.importorskip("yaml")
    spec = "datamodel:matrix='a,b.npz'"
    (written,) = {path.name: path for path in write(root, spec) if path.name == "cifar10.yaml"}.values()
    assert yaml.safe_load(written.read_text())["defense"] == spec
    for told in ("beatrix", "spectral:oracle=true"):
        with pytest.raises(BdbenchError, match="needs the oracle .*, which BackdoorBench's methods are not given"):
            write(root, told)
