"""Runs as records of BackdoorBench."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench import ANY_OTHER, BdbenchError, Challenge, Role, Split
from bdbench_backdoorbench import export
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.known import CLEAN_SETS
from bdbench_backdoorbench.record import read
from bdbench_backdoorbench.weights import Comparison, Drift, renormalised
from bdbench_models.architectures import PreActResNet18
from tests.plugins.backdoorbench.conftest import Clean, invoke, make_clean


@pytest.fixture
def a_run(tmp_path: Path, clean: Clean, small_sets: None) -> Path:
    found = bdbench.run(
        attack="badnets:rate=0.1",
        dataset=f"npz:path={clean.file},subset=32",
        reserve=0.1,
        model="preact-resnet18:epochs=1",
        defense="random",
        device="cpu",
        out=tmp_path / "runs",
    )
    return tmp_path / "runs" / found.id


def check_round_trip(clean: Clean, run_folder: Path, target: Path, *options: str) -> bdbench.PoisonedData:
    """Export, import, and compare all that a record holds; what came back."""
    result = invoke("export", "backdoorbench", str(run_folder), str(target), "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    kernel = read(target).state["conv1.weight"]
    assert kernel.shape[1] == 3  # as every network there
    run = bdbench.reopen(run_folder, device="cpu")
    again, order = clean.poison(target), np.argsort(run.places)
    assert again.index is not None and np.array_equal(again.index, run.places[order])
    for name in ("images", "labels", "roles", "original_labels"):
        assert np.array_equal(getattr(again, name), getattr(run.poisoned, name)[order]), name
    challenge, own = BackdoorBenchRecord(record=str(target)).triggered_set(clean.test), run.challenge
    assert own is not None and run.attacked.all()
    order = np.argsort(run.clean.test.places[own.index])
    assert np.array_equal(challenge.index, run.clean.test.places[own.index][order])
    assert np.array_equal(challenge.goal, own.goal[order])
    assert np.array_equal(challenge.images, own.images[order])
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
    found = clean.run(tmp_path / "runs", f"backdoorbench:record={theirs},weights=false")
    options = ("--clean-data", "mnist" if channels == 1 else "cifar10")
    again = check_round_trip(clean, tmp_path / "runs" / found.id, tmp_path / "record" / "mine", *options)
    assert again.index is not None and again.index.tolist() == sorted(order.tolist())
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
    told = torch.load("record/mine/info.pickle", weights_only=False)["drift"]
    assert {name: found["images"] for name, found in told.items()} == {"test": 24, "triggered": 18}


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


def test_what_is_otherwise_there_is_told(small_sets: None) -> None:
    still, moved = Drift(50, 0, 0.9, 0.9), Drift(100, 7, 0.95, 0.9)
    run: Any = SimpleNamespace(places=range(8), whole=8)
    colour, grey = CLEAN_SETS["gtsrb"], CLEAN_SETS["mnist"]
    assert not list(export._warnings(run, "gtsrb", colour, {})) + list(
        export._warnings(run, "gtsrb", colour, {"test": still, "triggered": still})
    )
    (line,) = export._warnings(run, "gtsrb", colour, {"test": moved, "triggered": still})
    assert "predicts 7 of 100 test images and 0 of 50 triggered images otherwise (CA 0.9500 -> 0.9000, ASR" in line
    (line,) = export._warnings(run, "mnist", grey, {})
    assert "transforms.Grayscale(3)" in line
    run.whole = 9
    (line,) = export._warnings(run, "gtsrb", colour, {})
    assert "the record has 8 of the 9 training images of gtsrb" in line


def test_a_goal_that_is_no_label_is_not_exported() -> None:
    images, index = np.zeros((3, 2, 2, 1), np.uint8), np.arange(3)
    run: Any = SimpleNamespace(
        clean=SimpleNamespace(test=Split(images, index), whole_test=3),
        challenge=Challenge(images, index, np.full(3, ANY_OTHER)),
        attacked=np.ones(3, bool),
        attack=SimpleNamespace(name="astray"),
    )
    nowhere: Any = None
    with pytest.raises(BdbenchError, match="attack 'astray' wants any other label: BackdoorBench's records name one"):
        export._test(run, nowhere)


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


def test_how_far_another_normalisation_moves_a_victim_is_measured() -> None:
    torch.manual_seed(0)
    network = PreActResNet18().build((8, 8, 3), 4).eval()
    victim = bdbench.Victim(network, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), "cpu", "bfloat16")
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
    wanted = np.arange(64) % 4
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    state = renormalised(victim, mean, std)
    found = Comparison(victim, state, mean, std).drift(images, wanted)
    theirs = PreActResNet18().build((8, 8, 3), 4).eval()
    theirs.load_state_dict(state)
    with torch.inference_mode():
        pixels = torch.from_numpy(images / np.float32(255)).permute(0, 3, 1, 2)
        there, here = theirs(pixels).argmax(1).numpy(), network((pixels - 0.5) / 0.25).argmax(1).numpy()
    assert found.images == 64 and found.changed == (here != there).sum() > 0
    assert (found.before, found.after) == ((here == wanted).mean(), (there == wanted).mean())
    assert victim.precision == "bfloat16" and np.array_equal(victim.mean, np.full(3, 0.5, np.float32))


def test_images_in_several_versions_are_not_exported() -> None:
    """A record has each image once: the original would be one of its poisons."""
    images = np.zeros((3, 4, 4, 3), np.uint8)
    roles = np.array([Role.CLEAN, Role.CLEAN, Role.POISON], np.int8)
    poisoned = SimpleNamespace(images=images, labels=np.zeros(3), roles=roles, original_labels=np.zeros(3))
    run: Any = SimpleNamespace(poisoned=poisoned, places=np.array([0, 1, 1]), whole=2)
    with pytest.raises(BdbenchError, match="training images are there in several versions"):
        export._train(run, None)  # type: ignore[arg-type]
