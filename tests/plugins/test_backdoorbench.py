"""Records of BackdoorBench as attacks, and runs as its records."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import bdbench
from bdbench import BdbenchError, Role, Split, Streams
from bdbench.cli import cli
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.commands import add
from bdbench_backdoorbench.known import CLEAN_SETS
from bdbench_backdoorbench.unpickling import load
from bdbench_backdoorbench.weights import renormalised
from bdbench_models.architectures import ConvNet, PreActResNet18
from tests.plugins.backdoorbench_files import pickle_module, write_record

CORES: list[Literal["numpy.core", "numpy._core"]] = ["numpy.core", "numpy._core"]


@dataclass
class Clean:
    """A small data set as npz, its arrays, and what a badnet of target 0 made of some of them."""

    file: Path
    train: Split
    test: Split
    shape: tuple[int, int, int]

    def changed(self, split: Split, places: list[int], labels: list[int]) -> dict[int, tuple[np.ndarray, int, int]]:
        images = np.array(split.images)
        images[:, -2:, -2:] = 255
        return {i: (images[i], y, int(split.labels[i])) for i, y in zip(places, labels, strict=True)}

    def badnet(self, folder: Path, poisons: tuple[int, ...] = (7, 21, 38), **options: Any) -> Path:
        others = np.flatnonzero(self.test.labels != 0).tolist()
        train = self.changed(self.train, list(poisons), [0] * len(poisons))
        test = self.changed(self.test, others, [0] * len(others))
        return self.write(folder, train, test, **options)

    def write(self, folder: Path, train: Any, test: Any, **options: Any) -> Path:
        sizes = (len(self.train.labels), len(self.test.labels))
        return write_record(folder, train, test, sizes=sizes, classes=4, shape=self.shape, **options)

    def poison(self, folder: Path) -> bdbench.PoisonedData:
        return BackdoorBenchRecord(record=str(folder)).poison(self.train, 4, Streams(0))


def make_clean(folder: Path, channels: int) -> Clean:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (64, 8, 8, channels)).astype(np.uint8)
    labels = np.arange(64) % 4
    file = folder / "clean.npz"
    np.savez(file, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return Clean(file, Split(images[:40], labels[:40]), Split(images[40:], labels[40:]), (8, 8, channels))


@pytest.fixture
def clean(tmp_path: Path) -> Clean:
    return make_clean(tmp_path, 3)


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """BackdoorBench's cifar10 and mnist are of 8 x 8 and four classes, so that victims train in a moment."""
    real = CLEAN_SETS["cifar10"]
    fake = type(real)("npz", 4, (8, 8, 3), real.mean, real.std)
    monkeypatch.setitem(CLEAN_SETS, "cifar10", fake)
    monkeypatch.setitem(CLEAN_SETS, "mnist", type(real)("grey", 4, (8, 8, 1), (0.5,), (0.5,)))


# Reading


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_record_becomes_its_poisoned_set(tmp_path: Path, core: Any, in_memory: bool, channels: int) -> None:
    clean = make_clean(tmp_path, channels)
    folder = clean.badnet(tmp_path / "record" / "badnet_demo", core=core, in_memory=in_memory)
    with zipfile.ZipFile(folder / "attack_result.pt") as archive:
        data = archive.read("attack_result/data.pkl")
    assert f"c{core}.multiarray\nscalar".encode() in data
    poisoned = clean.poison(folder)
    changed = [7, 21, 38]
    expected = np.array(clean.train.images)
    expected[changed, -2:, -2:] = 255
    assert np.array_equal(poisoned.images, expected)
    assert poisoned.labels[changed].tolist() == [0, 0, 0]
    assert np.array_equal(poisoned.original_labels, clean.train.labels)
    assert np.flatnonzero(poisoned.roles == Role.POISON).tolist() == changed
    assert poisoned.roles.sum() == 3 * Role.POISON
    attack = BackdoorBenchRecord(record=str(folder))
    triggered = attack.trigger(np.asarray(clean.test.images), Streams(0))
    others = clean.test.labels != 0
    assert (triggered[others][:, -2:, -2:] == 255).all()
    assert np.array_equal(triggered[~others], np.asarray(clean.test.images)[~others])
    assert attack.goal(clean.test.labels).tolist() == [0] * len(clean.test.labels)
    assert attack.goal(np.array([3])).tolist() == [0]


def test_a_record_that_was_moved_is_found(tmp_path: Path, clean: Clean, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clean.poison(clean.badnet(tmp_path / "record" / "badnet_demo"))
    shutil.move(tmp_path / "record" / "badnet_demo", tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert np.array_equal(clean.poison(tmp_path / "elsewhere").images, before.images)


def test_an_index_that_is_not_the_identity_orders_the_set(tmp_path: Path, clean: Clean) -> None:
    order = np.array([38, 3, 21, 0, 39])
    poisoned = clean.poison(clean.badnet(tmp_path / "r", train_index=order))
    assert poisoned.index is not None and poisoned.index.tolist() == order.tolist()
    assert poisoned.roles.tolist() == [Role.POISON, 0, Role.POISON, 0, 0]
    assert np.array_equal(poisoned.images[[1, 3, 4]], np.asarray(clean.train.images)[[3, 0, 39]])
    assert (poisoned.images[0, -2:, -2:] == 255).all()
    assert poisoned.original_labels.tolist() == [2, 3, 1, 0, 3]


def test_correctly_labelled_poisons_are_cover(tmp_path: Path, clean: Clean) -> None:
    # As WaNet writes them: places 1 to 3 to the target, whatever their class, and 4 to 7 with their own labels.
    places = list(range(8))
    labels = [0] * 4 + clean.train.labels[4:8].tolist()
    train = clean.changed(clean.train, places, labels)
    folder = clean.write(tmp_path / "wanet", train, clean.changed(clean.test, [1, 2, 3], [0, 0, 0]))
    roles = clean.poison(folder).roles
    assert np.flatnonzero(roles == Role.POISON).tolist() == [1, 2, 3]
    assert np.flatnonzero(roles == Role.COVER).tolist() == [0, 4, 5, 6, 7]


def test_where_no_label_changes_the_target_class_is_poisoned(tmp_path: Path, clean: Clean) -> None:
    train = clean.changed(clean.train, [0, 4, 8], [0, 0, 0])
    folder = clean.write(tmp_path / "sig", train, clean.changed(clean.test, [1, 2, 3], [0, 0, 0]))
    assert np.flatnonzero(clean.poison(folder).roles == Role.POISON).tolist() == [0, 4, 8]


def test_all_to_all_has_a_goal_for_each_label(tmp_path: Path, clean: Clean) -> None:
    everything = list(range(len(clean.test.labels)))
    test = clean.changed(clean.test, everything, ((clean.test.labels + 1) % 4).tolist())
    folder = clean.write(tmp_path / "a2a", clean.changed(clean.train, [1], [2]), test)
    attack = BackdoorBenchRecord(record=str(folder))
    assert np.array_equal(attack.goal(clean.test.labels), (clean.test.labels + 1) % 4)
    assert attack.goal(np.array([3, 0])).tolist() == [0, 1]
    assert attack.result().target() is None


def test_success_counts_on_the_records_own_test_images_only(tmp_path: Path, clean: Clean) -> None:
    folder = clean.write(
        tmp_path / "few", clean.changed(clean.train, [1], [0]), clean.changed(clean.test, [5, 2], [0, 0])
    )
    goal = BackdoorBenchRecord(record=str(folder)).goal(clean.test.labels)
    assert np.flatnonzero(goal != clean.test.labels).tolist() == [2, 5]


def test_another_data_set_is_refused(tmp_path: Path, clean: Clean) -> None:
    attack = BackdoorBenchRecord(record=str(clean.badnet(tmp_path / "r")))
    short = Split(np.asarray(clean.train.images)[:30], clean.train.labels[:30])
    with pytest.raises(BdbenchError, match=r"is of 40 training images of 4 classes .*: the data set has 30 of 4"):
        attack.poison(short, 4, Streams(0))
    shifted = Split(clean.train.images, np.roll(clean.train.labels, 1))
    with pytest.raises(BdbenchError, match="training example 7 was of class 3, but in the data set it is of class 2"):
        attack.poison(shifted, 4, Streams(0))
    with pytest.raises(BdbenchError, match="triggers its own 24 test images only: the data set has 40"):
        attack.trigger(np.asarray(clean.train.images), Streams(0))
    grey = Split(np.asarray(clean.train.images)[..., :1], clean.train.labels)
    with pytest.raises(BdbenchError, match="example 7 is RGB of 8 x 8: expected L of 8 x 8"):
        attack.poison(grey, 4, Streams(0))


def test_what_is_missing_is_named(tmp_path: Path, clean: Clean) -> None:
    folder = clean.badnet(tmp_path / "r")
    image = next((folder / "bd_train_dataset").rglob("21.png"))
    image.unlink()
    with pytest.raises(BdbenchError, match=f"example 21 is not at {image}"):
        clean.poison(folder)
    with pytest.raises(BdbenchError, match="no record at .*: expected a folder with attack_result.pt"):
        clean.poison(tmp_path / "nowhere")
    with pytest.raises(BdbenchError, match="expected backdoorbench:record=DIR"):
        BackdoorBenchRecord().result()
    torch.save({"model_name": "x"}, folder / "attack_result.pt")
    with pytest.raises(BdbenchError, match="has no 'num_classes'"):
        clean.poison(folder)


def test_an_image_path_that_leads_out_of_the_record_is_refused(tmp_path: Path, clean: Clean) -> None:
    folder = clean.badnet(tmp_path / "r")
    data = torch.load(folder / "attack_result.pt", weights_only=False)
    entry = data["bd_train"]["bd_data_container"]["data_dict"][np.int64(7)]
    entry["path"] = "./record/x/bd_train_dataset/../../clean.png"
    torch.save(data, folder / "attack_result.pt")
    with pytest.raises(BdbenchError, match="leads out of the record"):
        clean.poison(folder)


# The restricted reader


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (os.system, "posix.system"),
        (eval, "__builtin__.eval"),
        (getattr, "__builtin__.getattr"),
        (np.load, "numpy.load"),
    ],
)
def test_anything_else_in_a_file_is_refused_by_name(tmp_path: Path, call: Any, name: str) -> None:
    witness = tmp_path / "ran"
    torch.save({"model": Evil(call, f"touch {witness}")}, tmp_path / "evil.pt")
    with pytest.raises(BdbenchError, match=f"it asks for {name}, which is refused") as caught:
        load(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.arange(4)}, tmp_path / "good.pt")
    short = tmp_path / "short.pt"
    short.write_bytes((tmp_path / "good.pt").read_bytes()[:200])
    for path in (bare, short, tmp_path):
        with pytest.raises(BdbenchError, match="cannot read .*; expected a zip file that torch.save wrote") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(BdbenchError, match="no file at"):
        load(tmp_path / "absent.pt")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    tensor = torch.arange(6.0)
    torch.save(tensor, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    # The size, a one-byte integer in a tuple of one, made larger than the six numbers stored.
    files["good/data.pkl"] = files["good/data.pkl"].replace(b"K\x06\x85", b"K\x60\x85")
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(BdbenchError, match="does not fit its storage of 6"):
        load(tmp_path / "evil.pt")


def test_values_are_those_that_torch_reads(tmp_path: Path) -> None:
    weights = OrderedDict(
        a=torch.randn(3, 4).t(), b=torch.arange(5), c=torch.tensor(7), d=torch.zeros(0, 2), e=torch.randn(4)[1:3].half()
    )
    weights["f"] = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    value = {"w": weights, "i": np.arange(3)[::2], "f": np.float64(0.5), "o": [None, True, "x", (1, 2.5)]}
    torch.save(value, tmp_path / "v.pt", pickle_module=pickle_module("numpy.core"))
    found = load(tmp_path / "v.pt")
    for name, tensor in weights.items():
        assert found["w"][name].dtype == tensor.numpy().dtype
        assert np.array_equal(found["w"][name], tensor.numpy())
    assert found["i"].tolist() == [0, 2] and found["f"] == 0.5 and found["o"] == [None, True, "x", (1, 2.5)]


# Running on records


def test_the_records_own_victim_is_measured(
    tmp_path: Path, clean: Clean, small_sets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = PreActResNet18().build((8, 8, 3), 4)
    # DataParallel, as BackdoorBench trains on several devices, puts a prefix before every name.
    weights = OrderedDict((f"module.{k}", v) for k, v in network.state_dict().items())
    record = clean.badnet(tmp_path / "r", weights=weights)
    trained = []
    real = bdbench.training.Trainer.train

    def train(self: Any, images: Any, labels: Any, seed: int, label: str = "train") -> Any:
        trained.append(label)
        return real(self, images, labels, seed, label)

    monkeypatch.setattr("bdbench.training.Trainer.train", train)
    options: dict[str, Any] = {
        "attack": f"backdoorbench:record={record}",
        "dataset": f"npz:path={clean.file}",
        "model": "preact-resnet18:epochs=1",
        "device": "cpu",
        "out": tmp_path / "runs",
    }
    found = bdbench.run(defense="low-loss", **options)
    assert trained == ["low-loss: retrain"]
    run = bdbench.reopen(tmp_path / "runs" / found.id, device="cpu")
    expected = CLEAN_SETS["cifar10"].normalisation()
    assert np.array_equal(run.victim().mean, expected["mean"])
    x = (np.asarray(clean.test.images) / np.float32(255) - expected["mean"]) / expected["std"]
    network.eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    mine = run.victim()
    mine.precision = "float32"
    assert np.allclose(mine.logits(np.asarray(clean.test.images)), logits, atol=1e-4)
    assert found.before.clean_accuracy == pytest.approx((logits.argmax(1) == clean.test.labels).mean(), abs=0.1)
    trained.clear()
    bdbench.run(defense="low-loss", **{**options, "model": "convnet:width=4,epochs=1"})
    assert trained == ["train the victim", "low-loss: retrain"]


def test_weights_are_a_victim_of_their_own_architecture_only(tmp_path: Path, clean: Clean) -> None:
    record = str(clean.badnet(tmp_path / "r"))
    own = BackdoorBenchRecord(record=record).victim(PreActResNet18())
    assert own is not None and {"state.conv1.weight", "mean", "std"} == own.keys()
    assert BackdoorBenchRecord(record=record).victim(ConvNet()) is None
    assert BackdoorBenchRecord(record=record, weights=False).victim(PreActResNet18()) is None
    other = str(clean.badnet(tmp_path / "other", clean_data="celeba"))
    with pytest.raises(BdbenchError, match="unknown BackdoorBench data set 'celeba'.*known: cifar10"):
        BackdoorBenchRecord(record=other).victim(PreActResNet18())


def test_another_victim_is_another_result(tmp_path: Path, clean: Clean, small_sets: None) -> None:
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = PreActResNet18().build((8, 8, 3), 4).state_dict()
        record = clean.badnet(tmp_path / f"r{seed}", weights=weights)
        found = bdbench.run(
            attack=f"backdoorbench:record={record}",
            dataset=f"npz:path={clean.file}",
            model="preact-resnet18:epochs=1",
            defense="low-loss",
            device="cpu",
            out=tmp_path / "runs",
        )
        with np.load(tmp_path / "runs" / found.id / "scores.npz") as arrays:
            scores.append(arrays["scores"])
    assert not np.array_equal(*scores)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, clean: Clean, small_sets: None) -> None:
    weights = PreActResNet18().build((8, 8, 3), 7).state_dict()
    record = clean.badnet(tmp_path / "r", weights=weights)
    with pytest.raises(BdbenchError, match="brings weights that do not fit model 'preact-resnet18': .*linear.weight"):
        bdbench.run(
            attack=f"backdoorbench:record={record}",
            dataset=f"npz:path={clean.file}",
            model="preact-resnet18",
            defense="random",
            device="cpu",
            out=tmp_path / "runs",
        )


# Writing


@pytest.fixture
def a_run(tmp_path: Path, clean: Clean, small_sets: None) -> Path:
    found = bdbench.run(
        attack="badnets:rate=0.1",
        dataset=f"npz:path={clean.file},subset=32",
        model="preact-resnet18:epochs=1",
        defense="random",
        device="cpu",
        out=tmp_path / "runs",
    )
    return tmp_path / "runs" / found.id


def invoke(*arguments: str) -> Any:
    add(cli)
    return CliRunner().invoke(cli, list(arguments))


def check_round_trip(clean: Clean, run_folder: Path, target: Path, *options: str) -> bdbench.PoisonedData:
    """Export, import, and compare all that a record holds; what came back."""
    result = invoke("export", "backdoorbench", str(run_folder), str(target), "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    run = bdbench.reopen(run_folder, device="cpu")
    again = clean.poison(target)
    assert again.index is not None and np.array_equal(again.index, run.places)
    for name in ("images", "labels", "roles", "original_labels"):
        assert np.array_equal(getattr(again, name), getattr(run.poisoned, name)), name
    attack = BackdoorBenchRecord(record=str(target))
    images, labels = np.asarray(clean.test.images), clean.test.labels
    goal = run.attack.goal(labels)
    assert goal is not None and np.array_equal(attack.goal(labels), goal)
    aimed = goal != labels
    assert np.array_equal(attack.trigger(images, Streams(0))[aimed], run.triggered(images)[aimed])
    return again


def test_a_run_becomes_a_record_without_loss(tmp_path: Path, clean: Clean, a_run: Path) -> None:
    assert len(check_round_trip(clean, a_run, tmp_path / "record" / "mine").labels) == 32


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_cover_examples_and_any_order_survive(tmp_path: Path, small_sets: None, channels: int) -> None:
    clean = make_clean(tmp_path, channels)
    order = np.random.default_rng(1).permutation(40)[:30]
    poisons, covers = sorted(order[:4].tolist()), sorted(order[4:7].tolist())
    train = clean.changed(clean.train, poisons, [(int(clean.train.labels[i]) + 1) % 4 for i in poisons])
    train |= clean.changed(clean.train, covers, [int(clean.train.labels[i]) for i in covers])
    everything = list(range(len(clean.test.labels)))
    test = clean.changed(clean.test, everything, ((clean.test.labels + 1) % 4).tolist())
    theirs = clean.write(tmp_path / "theirs", train, test, train_index=order)
    found = bdbench.run(
        attack=f"backdoorbench:record={theirs},weights=false",
        dataset=f"npz:path={clean.file}",
        model="preact-resnet18:epochs=1",
        defense="random",
        device="cpu",
        out=tmp_path / "runs",
    )
    options = ("--clean-data", "mnist" if channels == 1 else "cifar10")
    again = check_round_trip(clean, tmp_path / "runs" / found.id, tmp_path / "record" / "mine", *options)
    assert again.index is not None and again.index.tolist() == order.tolist()
    assert sorted(again.index[again.roles == Role.POISON]) == poisons
    assert sorted(again.index[again.roles == Role.COVER]) == covers


def test_the_record_is_what_backdoorbench_reads(tmp_path: Path, a_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("export", "backdoorbench", str(a_run), str(tmp_path / "record" / "mine")).exit_code == 0
    folder = tmp_path / "record" / "mine"
    with zipfile.ZipFile(folder / "attack_result.pt") as archive:
        assert b"numpy._core" not in archive.read("attack_result/data.pkl")
    # From here on as its own loader does: from its root, with torch.load, and images by their stored paths.
    monkeypatch.chdir(tmp_path)
    data = torch.load("record/mine/attack_result.pt", weights_only=False)
    assert {"model_name", "num_classes", "model", "data_path", "img_size", "clean_data"} < data.keys()
    assert (data["model_name"], data["clean_data"], data["data_path"]) == (
        "preactresnet18",
        "cifar10",
        "./data/cifar10",
    )
    train, test = data["bd_train"], data["bd_test"]
    assert train["poison_indicator"].shape == (40,) and train["poison_indicator"].dtype == np.float64
    assert train["original_index_array"].shape == (32,)
    container = train["bd_data_container"]
    poisons = np.flatnonzero(train["poison_indicator"])
    assert len(poisons) == len(container["data_dict"]) == 3
    for place in poisons:
        entry = container["data_dict"][place]
        label, original = entry["other_info"]
        assert entry["path"] == f"./record/mine/bd_train_dataset/{original}/{place}.png"
        assert Path(entry["path"]).is_file() and label == 0 != original
    assert len(test["original_index_array"]) == test["poison_indicator"].sum() < len(test["poison_indicator"]) == 24
    assert test["getitem_all"] is True and test["getitem_all_switch"] is False
    names = list(PreActResNet18().build((8, 8, 3), 4).state_dict())
    assert list(data["model"]) == names
    indicator = torch.load("record/mine/train_poison_index_list.pickle", weights_only=False)
    assert np.array_equal(indicator, train["poison_indicator"])


def test_export_refuses_what_backdoorbench_cannot_read(tmp_path: Path, clean: Clean, small_sets: None) -> None:
    def made(**options: Any) -> bdbench.Reopened:
        base = {"dataset": f"npz:path={clean.file}", "defense": "random", "device": "cpu", "out": tmp_path / "runs"}
        found = bdbench.run(**{**base, **options})
        return bdbench.reopen(tmp_path / "runs" / found.id, device="cpu")

    from bdbench.progress import quiet
    from bdbench_backdoorbench.export import write

    tiny = "convnet:width=4,epochs=1"
    with pytest.raises(BdbenchError, match="no model 'convnet': expected a run with --model preact-resnet18"):
        write(made(attack="badnets:rate=0.1", model=tiny), tmp_path / "a", quiet)
    with pytest.raises(BdbenchError, match="does not read data set 'digits': expected a run on .*cifar100"):
        write(made(attack="badnets", model=tiny, dataset="digits:subset=100"), tmp_path / "b", quiet)
    with pytest.raises(BdbenchError, match="the run's images are .8, 8, 1. and 10 classes"):
        write(made(attack="badnets", model=tiny, dataset="digits:subset=100"), tmp_path / "c", quiet, "cifar10")
    (tmp_path / "d").mkdir()
    with pytest.raises(BdbenchError, match="is there already"):
        write(made(attack="badnets:rate=0.1", model=tiny), tmp_path / "d", quiet)
    assert not any((tmp_path / name).exists() for name in "abc")


def test_weights_for_another_normalisation_give_the_same_logits_inside() -> None:
    torch.manual_seed(0)
    network = PreActResNet18().build((24, 24, 3), 4)
    network.train()
    with torch.no_grad():
        network(torch.randn(16, 3, 24, 24))
    network.eval()
    mean, std = np.array([0.3, 0.5, 0.4], np.float32), np.array([0.2, 0.3, 0.25], np.float32)
    victim = bdbench.Victim(network, mean, std, "cpu")
    same = renormalised(victim, mean, std)
    assert all(torch.equal(v, same[k]) for k, v in network.state_dict().items())
    other_mean, other_std = np.zeros(3, np.float32), np.ones(3, np.float32)
    moved = PreActResNet18().build((24, 24, 3), 4).eval()
    moved.load_state_dict(renormalised(victim, other_mean, other_std))
    pixels = np.random.default_rng(0).random((2, 24, 24, 3)).astype(np.float32)

    def stream(net: torch.nn.Module, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return net.layer1[0].bn1(net.conv1(x))  # type: ignore[index, operator, union-attr]

    ours, theirs = stream(network, mean, std), stream(moved, other_mean, other_std)
    inside = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(ours[inside], theirs[inside], atol=1e-4)
    assert not torch.allclose(ours, theirs, atol=1e-2)


# Its data sets


def save(path: Path, colour: tuple[int, int, int], size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def test_gtsrb_is_read_in_the_order_of_its_tables(tmp_path: Path) -> None:
    root = tmp_path / "gtsrb"
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    for c in range(43):
        names = ["b.ppm", "a.ppm"] if c == 1 else ["x.ppm"]
        for i, name in enumerate(names):
            save(root / "Train" / f"{c:05d}" / name, (c, i, 0), 20)
        rows = "".join(f"{n};20;20;0;0;1;1;{c}\n" for n in names)
        (root / "Train" / f"{c:05d}" / f"GT-{c:05d}.csv").write_text(head + rows)
    save(root / "Test" / "00000.ppm", (9, 9, 9), 40)
    (root / "Test" / "GT-final_test.csv").write_text(head + "00000.ppm;40;40;0;0;1;1;16\n")
    for data_root in (tmp_path, root):
        data = bdbench.load("gtsrb-full", data_root=data_root)
        assert data.shape == (32, 32, 3) and data.num_classes == 43
        assert data.train.labels.tolist() == [0, 1, 1, *range(2, 43)]
        images = np.asarray(data.train.images)
        assert images[1:4, 0, 0, :2].tolist() == [[1, 0], [1, 1], [2, 0]]
        assert data.test.labels.tolist() == [16]
    with pytest.raises(BdbenchError, match="gtsrb-full was not found in .*: expected Test/GT-final_test.csv there"):
        bdbench.load("gtsrb-full", data_root=tmp_path / "Train")


def test_tiny_imagenet_is_read_sorted(tmp_path: Path) -> None:
    root = tmp_path / "tiny" / "tiny-imagenet-200"
    for name, red in (("n02", 2), ("n01", 1)):
        for i in (1, 0):
            save(root / "train" / name / "images" / f"{name}_{i}.png", (red, i, 0), 64)
    for i in (1, 0):
        save(root / "val" / "images" / f"val_{i}.png", (0, i, 0), 64)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "val" / "val_annotations.txt").write_text("val_1.png\tn01\t0\nval_0.png\tn02\t0\n")
    data = bdbench.load("tiny-imagenet", data_root=tmp_path)
    assert data.classes == ("n01", "n02") and data.shape == (64, 64, 3)
    assert np.asarray(data.train.images)[:, 0, 0, :2].tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1, 0]


# Commands


def test_import_tells_what_a_record_holds_and_how_to_run_on_it(
    tmp_path: Path, clean: Clean, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clean.badnet(tmp_path / "record" / "badnet_demo")
    options = ["--dataset", f"npz:path={clean.file}"]
    found = json.loads(invoke("import", "backdoorbench", str(folder), *options, "--json").stdout)
    assert found["poisons"] == 3 and found["cover_examples"] == 0 and found["target"] == 0
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
    lines = out.read_text().splitlines()
    assert lines[0].startswith("source,dataset,model,attack,defense,rate,clean_accuracy")
    assert lines[2] == "published by BackdoorBench,cifar10,preactresnet18,badnet,nc,0.05,0.91,0.009000000000000001,"
    file.write_text("dataset,backbone\na,b\n")
    wrong = invoke("import", "backdoorbench-results", str(file))
    assert wrong.exit_code == 2 and "no column 'attack_name'" in wrong.stderr


@pytest.mark.parametrize("form", ["PNG", "PPM", "BMP"])
def test_an_image_that_was_opened_from_a_file_is_read_from_memory(tmp_path: Path, form: str) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    opened = Image.open(buffer)
    opened.load()
    torch.save({"image": opened}, tmp_path / "x.pt")
    assert np.array_equal(np.asarray(load(tmp_path / "x.pt")["image"]), pixels)
